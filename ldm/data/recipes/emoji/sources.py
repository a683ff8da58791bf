"""The pinned packages, and what each of the five styles is called."""

from dataclasses import dataclass

from ldm.data.recipes.npm_packages import Package

EMOJIBASE = Package(
    "emojibase-data", "17.0.0", 6711091,
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """One picture style.

    Attributes:
        key: short name, as in the json and in the shipped model's prompts.
        package: where the pictures come from.
        licence: SPDX name of the pictures' licence.
        author: whom to credit.
        phrase: the words that follow a comma: "a fox, 3d style".
        picture: the words that stand before "of": "a glossy 3d render of a fox".
    """

    key: str
    package: Package
    licence: str
    author: str
    phrase: str
    picture: str


def _iconify(name: str, version: str, size: int, sha512: str) -> Package:
    return Package(f"@iconify-json/{name}", version, size, sha512)


STYLES = (
    Style(
        "3d",
        Package(
            "@lobehub/fluent-emoji-3d", "1.1.0", 15792027,
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        "MIT", "Microsoft (Fluent Emoji), packaged by LobeHub", "3d style", "glossy 3d render",
    ),
    Style(
        "flat",
        _iconify(
            "fluent-emoji-flat", "1.2.6", 1172438,
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        "MIT", "Microsoft (Fluent Emoji)", "flat fluent style", "modern flat icon",
    ),
    Style(
        "noto",
        _iconify(
            "noto", "1.2.9", 3102958,
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        "Apache-2.0", "Google (Noto Emoji)", "noto style", "shaded cartoon icon",
    ),
    Style(
        "twemoji",
        _iconify(
            "twemoji", "1.2.5", 1555888,
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        "CC-BY-4.0", "Twitter (Twemoji)", "twemoji style", "flat cartoon icon",
    ),
    Style(
        "outlined",
        _iconify(
            "streamline-emojis", "1.2.4", 381714,
            "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        ),
        "CC-BY-4.0", "Streamline (Streamline Emojis)", "outlined style", "cute outlined icon",
    ),
)  # fmt: skip

STYLE_BY_KEY = {style.key: style for style in STYLES}
