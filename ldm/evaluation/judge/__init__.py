"""The judge: a classifier that scores generated pictures of data sets with concepts and styles."""
