"""Which characters are white space, which are visible, and what one is called."""

import re
import unicodedata

WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, as the inside of a regular expression's set."""

CONTROLS = "\0-\x1f\x7f-\x9f"
"""Control characters, in the same form."""

NOT_CHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
"""Code points that Unicode keeps for no character, in the same form."""

_VISIBLE = re.compile(
    f"[^{WHITE_SPACE}{CONTROLS}{NOT_CHARACTERS}"
    # Default_Ignorable_Code_Point: joiners, directions, fillers, variation selectors, tags
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
    # blank Braille pattern, null notehead, interlinear marks, joiners of hieroglyphs
    "\u2800\U0001d159\ufff9-\ufffb\U00013430-\U0001343f"
    "]"
)


def has_visible_character(text: str) -> bool:
    r"""Return whether a reader would see anything of a text.

    Half a surrogate pair, a lone combining mark and a character that this Python's Unicode does not
    know yet count as visible.

    >>> has_visible_character(" ok"), has_visible_character("\u200b\u2800\x00\ufeff")
    (True, False)
    """
    return " " < text[:1] < "\x7f" or _VISIBLE.search(text) is not None


def described(character: str) -> str:
    r"""Return the code point of a character and its name in Unicode.

    >>> described("\u202e"), described("\0")
    ('U+202E RIGHT-TO-LEFT OVERRIDE', 'U+0000 (control character)')
    >>> described("\ud83d"), described("\ufffe")
    ('U+D83D (half a surrogate pair)', 'U+FFFE (not a character)')
    """
    names = {"Cc": "(control character)", "Cs": "(half a surrogate pair)"}
    name = names.get(unicodedata.category(character), "(not a character)")
    return f"U+{ord(character):04X} {unicodedata.name(character, name)}"
