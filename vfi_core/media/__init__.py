"""Pictures and films, read and written."""

from .read import Source, Track, open_source, read_fps, read_keyframes, read_picture, read_video, video_frames
from .write import check_output, check_output_file, write_film, write_picture

__all__ = [
    "Source",
    "Track",
    "check_output",
    "check_output_file",
    "open_source",
    "read_fps",
    "read_keyframes",
    "read_picture",
    "read_video",
    "video_frames",
    "write_film",
    "write_picture",
]
