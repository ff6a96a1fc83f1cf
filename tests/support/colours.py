"""How well colours can be told apart."""


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2.2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    """CSS's color-mix(in srgb): so much of one colour, the rest of the other."""
    pairs = ((int(colour.lstrip("#").ljust(6, "f")[i : i + 2], 16) for colour in (one, other)) for i in (0, 2, 4))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)
