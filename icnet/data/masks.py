"""Reading label masks: files with one stored label id per pixel."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from icnet.data.images import PNG_COLOR_TYPES, PNG_SIGNATURE, decode, read_file
from icnet.errors import UserError


def read_mask(path: Path) -> np.ndarray:
    """Read a label mask: a PNG with one 8-bit label id per pixel, stored as gray values or as palette indices.

    Returns:
        (H, W) uint8 stored label ids.

    Raises:
        UserError: The file is missing, truncated, or holds something other than one 8-bit index per pixel.
    """
    data = read_file(path)
    if not data.startswith(PNG_SIGNATURE) or len(data) < 33:
        raise UserError(f"label mask {path} is not a PNG file; save masks as single-channel 8-bit PNG")
    depth, color_type = data[24], data[25]
    if color_type == 3:  # OpenCV would return the palette's colours
        try:
            with Image.open(BytesIO(data)) as image:
                return np.array(image)
        except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
            raise UserError(f"{path} cannot be decoded as an image; copy or download it again") from None
    if color_type != 0 or depth != 8:  # fewer bits of gray would be stretched to 0-255
        kind = f"{depth}-bit {PNG_COLOR_TYPES.get(color_type, 'unknown')}"
        raise UserError(
            f"label mask {path} is {kind}; masks hold one label id per pixel: save it as 8-bit gray or palette PNG"
        )
    return decode(path, data, cv2.IMREAD_UNCHANGED)
