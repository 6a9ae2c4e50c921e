"""Set decoded frames upright: turned, mirrored and resized as a player shows them, in RGB."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.archive.probe import Probe


class Upright:
    """Converts the frames of one video to pictures of one size."""

    def __init__(self, probe: Probe, width: int, height: int) -> None:
        """Take the probe of the video, and the size of the upright pictures in pixels."""
        self.width, self.height = width, height
        self._turns, self._mirrored = probe.rotation_deg // 90, probe.mirrored
        self._reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a frame as `uint8 [H, W, 3]`, RGB, C-contiguous."""
        width, height = (self.height, self.width) if self._turns % 2 else (self.width, self.height)
        # One pass converts the colours and resizes. If the picture's size changes within a file, later frames are
        # resized to the first size: recorders change the resolution, not the scene.
        small = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
        )
        image = np.asarray(small.to_ndarray(), np.uint8)
        if self._turns:
            image = np.rot90(image, self._turns)
        if self._mirrored:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)
