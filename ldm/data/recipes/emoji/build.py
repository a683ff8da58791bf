"""Build the emoji data set: fetch, plan, render and caption, shard by shard."""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from ldm.data.recipes.card import write_card
from ldm.data.recipes.emoji import scenes
from ldm.data.recipes.emoji.balance import SCENE_WEIGHT, icon_weight, is_taken
from ldm.data.recipes.emoji.captions import icon_captions, keywords, vocabulary
from ldm.data.recipes.emoji.colours import colour_words
from ldm.data.recipes.emoji.description import DESCRIPTION, notes
from ldm.data.recipes.emoji.icons import Icon, IconLibrary, on_background, visible_share
from ldm.data.recipes.emoji.nouns import noun
from ldm.data.recipes.emoji.scenes import Scene
from ldm.data.recipes.emoji.sources import EMOJIBASE, STYLE_BY_KEY, STYLES
from ldm.data.recipes.emoji.split import cell_is_held_out
from ldm.data.recipes.npm_packages import fetch
from ldm.data.sources.webdataset import Sample, encode_json, read_shard, write_shard
from ldm.io.disk.files import write_file
from ldm.progress import Progress, silent

SHARD_SIZE = 500
_RECIPE_VERSION = 2
_WHITE = (255, 255, 255)
_LEAST_VISIBLE = 0.02


@dataclass(frozen=True)
class _Shard:
    path: Path
    first: int
    items: tuple[Icon | Scene, ...]


def build_emoji(
    folder: Path,
    size: int = 256,
    seed: int = 0,
    scenes: int = 12000,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the emoji data set into `folder` and return its manifest.

    Equal arguments give equal bytes. An interrupted build goes on with the shards that are missing.

    Args:
        folder: `train/*.tar`, `held_out/*.tar`, `words.txt`, `card.md` and `manifest.json` go here.
        size: height and width of the pictures.
        seed: draws captions, scenes, order and which skin tones are taken; who is held out does not depend on it.
        scenes: how many composed scenes are drawn (the few that cannot be seen on their background are left out).
        cache: where fetched packages are kept; None for the user's cache folder.
        workers: rendering processes.
        progress: of fetching and drawing.

    Raises:
        ValueError: an argument is out of range, or `folder` holds a build with other arguments.
        OSError: a package cannot be fetched, or the folder cannot be written.
    """
    _check_arguments(size, scenes, workers)
    tarballs = fetch([EMOJIBASE, *(style.package for style in STYLES)], cache, progress)
    return build_from(tarballs, folder, size, seed, scenes, workers, progress)


def build_from(
    tarballs: Mapping[str, Path],
    folder: Path,
    size: int = 256,
    seed: int = 0,
    scenes: int = 12000,
    workers: int = 2,
    progress: Progress = silent,
) -> dict[str, Any]:
    """`build_emoji` with packages that are here already: the tarballs' paths by package name.

    Raises:
        ValueError: an argument is out of range, or `folder` holds a build with other arguments.
        OSError: the folder cannot be written, or a rendering process was ended from outside.
    """
    _check_arguments(size, scenes, workers)
    arguments = {"recipe": "emoji", "version": _RECIPE_VERSION, "size": size, "seed": seed, "scenes": scenes}
    _claim(folder, arguments)
    library = IconLibrary(tarballs)
    shards = _plan(library, folder, seed, scenes)
    todo = [shard for shard in shards if not shard.path.exists()]
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    total = sum(len(shard.items) for shard in shards)
    done = total - sum(len(shard.items) for shard in todo)
    with ProcessPoolExecutor(workers, context, _start_worker, (tarballs, size, seed, stop)) as pool:
        progress("drawing pictures", done, total)
        try:
            for shard, _ in zip(todo, pool.map(_draw_shard, todo), strict=True):
                done += len(shard.items)
                progress("drawing pictures", done, total)
        except BrokenProcessPool as error:
            raise OSError(
                f"{folder}: a rendering process was ended from outside, perhaps for lack of memory; finished shards "
                "are kept, so run again, with fewer workers if it happens again"
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    manifest = _manifest(arguments, library, shards)
    write_file(folder / "words.txt", "".join(f"{word}\n" for word in vocabulary(library.table.concepts)).encode())
    write_card(folder / "card.md", manifest)
    write_file(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return manifest


def _check_arguments(size: int, scenes: int, workers: int) -> None:
    for name, value, least in (("size", size, 16), ("scenes", scenes, 0), ("workers", workers, 1)):
        if value < least:
            raise ValueError(f"{name}={value} is less than {least}")


def _claim(folder: Path, arguments: dict[str, Any]) -> None:
    note = folder / "build.json"
    if note.exists():
        present = json.loads(note.read_bytes())
        if present != arguments:
            other = ", ".join(f"{key}={present.get(key)}" for key in arguments if present.get(key) != arguments[key])
            raise ValueError(f"{folder}: holds a build with {other}; name another folder or delete this one")
    else:
        write_file(note, encode_json(arguments))


def _plan(library: IconLibrary, folder: Path, seed: int, scene_count: int) -> list[_Shard]:
    icons = library.icons()
    styles: dict[str, set[str]] = {}
    for icon in icons:
        styles.setdefault(icon.concept.family, set()).add(icon.style)
    splits: dict[str, list[Icon | Scene]] = {"train": [], "held_out": []}
    for icon in icons:
        if not is_taken(icon, seed):
            continue
        family = icon.concept.family
        splits["held_out" if cell_is_held_out(family, icon.style, len(styles[family])) else "train"].append(icon)
    trained_icons = [item for item in splits["train"] if isinstance(item, Icon)]
    for scene in scenes.plan_scenes(trained_icons, scene_count, seed):
        splits["held_out" if scene.held_out else "train"].append(scene)
    shards = []
    for split, items in splits.items():
        Random(f"{seed}/order/{split}").shuffle(items)
        for number, first in enumerate(range(0, len(items), SHARD_SIZE)):
            path = folder / split / f"{number:06d}.tar"
            shards.append(_Shard(path, first, tuple(items[first : first + SHARD_SIZE])))
    return shards


_worker: "_Worker"


@dataclass(frozen=True)
class _Worker:
    library: IconLibrary
    size: int
    seed: int
    labels: dict[str, int]
    words: dict[str, list[str]]
    stop: Event


class _Stopped(Exception):
    pass


def _start_worker(tarballs: Mapping[str, Path], size: int, seed: int, stop: Event) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    library = IconLibrary(tarballs)
    labels = {concept.slug: number for number, concept in enumerate(library.table.concepts)}
    _worker = _Worker(library, size, seed, labels, keywords(library.table.concepts), stop)


def _end_with_parent() -> None:
    # A killed parent cannot tell its workers to stop; they would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_shard(shard: _Shard) -> None:
    write_shard(shard.path, _samples(shard, _worker))


def _samples(shard: _Shard, worker: _Worker) -> Iterator[Sample]:
    for number, item in enumerate(shard.items, shard.first):
        if worker.stop.is_set():
            raise _Stopped
        rendered = _draw_icon(item, worker) if isinstance(item, Icon) else _draw_scene(item, worker)
        if rendered:
            picture, meta = rendered
            encoded = io.BytesIO()
            picture.save(encoded, "PNG", compress_level=1)
            yield Sample(_key(number), encoded.getvalue(), meta)


def _key(number: int) -> str:
    return f"{number:06d}"


def _draw_icon(icon: Icon, worker: _Worker) -> tuple[Image.Image, dict[str, Any]] | None:
    drawing = worker.library.render(icon, worker.size)
    picture = on_background(drawing, _WHITE)
    if visible_share(picture, _WHITE) < _LEAST_VISIBLE:
        return None
    concept, style = icon.concept, STYLE_BY_KEY[icon.style]
    rng = Random(f"{worker.seed}/captions/{icon.style}/{icon.name}")
    captions = icon_captions(concept, style, icon.tone, colour_words(drawing), worker.words[concept.slug], rng)
    return picture, {
        **_common(icon, worker),
        "captions": captions,
        "concept": concept.slug,
        "noun": noun(concept),
        "kind": "icon",
        "tone": icon.tone,
        "weight": icon_weight(icon),
    }


def _draw_scene(scene: Scene, worker: _Worker) -> tuple[Image.Image, dict[str, Any]] | None:
    picture = scenes.compose(scene, worker.library, worker.size)
    if picture is None:
        return None
    objects = [icon.concept.slug for icon in scene.icons]
    return picture, {
        **_common(scene.icons[0], worker),
        "captions": scenes.captions(scene),
        "concept": "+".join(objects),
        "noun": " and ".join(noun(icon.concept) for icon in scene.icons),
        "label": worker.labels[objects[0]] if len(objects) == 1 else -1,
        "kind": scene.kind,
        "objects": objects,
        "count": scene.count,
        "background": scene.background,
        "tone": 0,
        "weight": SCENE_WEIGHT,
    }


def _common(icon: Icon, worker: _Worker) -> dict[str, Any]:
    style = STYLE_BY_KEY[icon.style]
    return {
        "style": icon.style,
        "label": worker.labels[icon.concept.slug],
        "group": icon.concept.group,
        "subgroup": icon.concept.subgroup,
        "source": f"{style.package.name}@{style.package.version}",
        "licence": style.licence,
    }


def _manifest(arguments: dict[str, Any], library: IconLibrary, shards: Sequence[_Shard]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    listing = []
    hidden: list[Icon | Scene] = []
    for shard in shards:
        samples = list(read_shard(shard.path))
        metas = [sample.meta or {} for sample in samples]
        written_keys = {sample.key for sample in samples}
        hidden += [item for number, item in enumerate(shard.items, shard.first) if _key(number) not in written_keys]
        split = shard.path.parent.name
        tally = counts.setdefault(split, Counter())
        for meta in metas:
            tally.update(["pictures", f"kind {meta['kind']}", f"style {meta['style']}"])
            tally["skin tones"] += bool(meta["tone"])
        digest = hashlib.sha256(shard.path.read_bytes()).hexdigest()
        listing.append({"path": f"{split}/{shard.path.name}", "pictures": len(metas), "sha256": digest})
    hidden_icons = sorted(f"{item.style}/{item.name}" for item in hidden if isinstance(item, Icon))
    rendered = {icon.concept.slug for icon in library.icons()}
    return {
        **arguments,
        "about": DESCRIPTION,
        "notes": notes(hidden_icons, len(hidden) - len(hidden_icons)),
        "counts": {split: dict(sorted(tally.items())) for split, tally in counts.items()},
        "styles": [
            {
                "key": style.key,
                "phrase": style.phrase,
                "picture": style.picture,
                "licence": style.licence,
                "author": style.author,
                "package": asdict(style.package),
            }
            for style in STYLES
        ],
        "names": asdict(EMOJIBASE),
        "concepts": [
            {"label": number, "concept": concept.slug, "noun": noun(concept), "group": concept.group}
            | {"subgroup": concept.subgroup, "rendered": concept.slug in rendered}
            for number, concept in enumerate(library.table.concepts)
        ],
        "shards": listing,
    }
