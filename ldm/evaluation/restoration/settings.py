"""Best settings of the classical filters, as benchmarks/tune_restoration.py found them."""

from ldm.evaluation.restoration.methods import Value

TUNED_ON = "a quarter of each of 4 training pictures of emoji5 (pictures-128-9e6793d285f1)"
BEST: dict[str, dict[str, dict[str, Value]]] = {
    "median": {
        "gaussian 15": {"size": 3},
        "gaussian 25": {"size": 3},
        "gaussian 50": {"size": 5},
        "speckle 0.2": {"size": 5},
        "poisson 30": {"size": 5},
        "salt and pepper 5 %": {"size": 3},
        "salt and pepper 20 %": {"size": 3},
    },
    "bilateral": {
        "gaussian 15": {"sd_colour": 0.2, "sd_space": 2.0},
        "gaussian 25": {"sd_colour": 0.2, "sd_space": 2.0},
        "gaussian 50": {"sd_colour": 0.4, "sd_space": 2.0},
        "speckle 0.2": {"sd_colour": 0.4, "sd_space": 2.0},
        "poisson 30": {"sd_colour": 0.4, "sd_space": 2.0},
        "jpeg 10": {"sd_colour": 0.2, "sd_space": 2.0},
        "jpeg 30": {"sd_colour": 0.1, "sd_space": 2.0},
    },
    "total variation": {
        "gaussian 15": {"weight": 0.04},
        "gaussian 25": {"weight": 0.08},
        "gaussian 50": {"weight": 0.15},
        "speckle 0.2": {"weight": 0.08},
        "poisson 30": {"weight": 0.08},
        "jpeg 10": {"weight": 0.08},
        "jpeg 30": {"weight": 0.04},
    },
    "wavelet": {
        "gaussian 15": {"sd": 0.04, "strength": 3.0},
        "gaussian 25": {"sd": 0.04, "strength": 8.0},
        "gaussian 50": {"sd": 0.1, "strength": 3.0},
        "speckle 0.2": {"sd": 0.06, "strength": 5.0},
        "poisson 30": {"sd": 0.06, "strength": 5.0},
        "jpeg 10": {"sd": 0.04, "strength": 3.0},
        "jpeg 30": {"sd": 0.02, "strength": 5.0},
    },
    "NLM": {
        "gaussian 15": {"sd": 0.06, "strength": 0.8},
        "gaussian 25": {"sd": 0.1, "strength": 0.5},
        "gaussian 50": {"sd": 0.15, "strength": 0.8},
        "speckle 0.2": {"sd": 0.1, "strength": 0.8},
        "poisson 30": {"sd": 0.1, "strength": 0.8},
        "jpeg 10": {"sd": 0.06, "strength": 0.8},
        "jpeg 30": {"sd": 0.06, "strength": 0.8},
    },
    "BM3D": {
        "gaussian 15": {"sd": 0.06},
        "gaussian 25": {"sd": 0.1},
        "gaussian 50": {"sd": 0.2},
        "jpeg 10": {"sd": 0.15},
        "jpeg 30": {"sd": 0.06},
    },
    "log + NLM": {"speckle 0.2": {"strength": 0.5}},
    "log + BM3D": {"speckle 0.2": {"strength": 1.0}},
    "Anscombe + NLM": {"poisson 30": {"strength": 0.5}},
    "Anscombe + BM3D": {"poisson 30": {"strength": 1.0}},
    "detect and fill": {
        "salt and pepper 5 %": {"window": 3, "apart": 0.1, "fill": "biharmonic"},
        "salt and pepper 20 %": {"window": 5, "apart": 0.02, "fill": "biharmonic"},
    },
    "Wiener": {"blur 2, noise 5": {"balance": 0.012}},
    "Richardson-Lucy": {"blur 2, noise 5": {"steps": 50}},
}
