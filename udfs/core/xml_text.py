"""Text that every subscriber of a topic takes."""

import re

from udfs.core.characters import NOT_CHARACTERS

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_FORBIDDEN = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff{NOT_CHARACTERS}]")


def xml_text(text: str) -> str:
    r"""Return a text with every character replaced that XML 1.0 or UTF-8 does not allow.

    XML allows no control characters but tab and line ends, no surrogates and neither U+FFFE nor
    U+FFFF; SQS, for one, refuses a message with one of them. The other code points that Unicode
    reserves as noncharacters are replaced too: some subscribers refuse them.

    Returns
    -------
    str
        As long as `text`; `REPLACEMENT` in the place of each such character.

    Examples
    --------
    >>> xml_text("fine \N{GRINNING FACE}\n"), xml_text("a\x00b\ufffec")
    ('fine 😀\n', 'a�b�c')
    """
    return _FORBIDDEN.sub(REPLACEMENT, text)
