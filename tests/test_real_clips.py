"""Real clips go through an edit and a guided edit of the built-in model at their own ratio."""

from pathlib import Path

import pytest

from loomvideo.cli.main import main
from loomvideo.media.clip import probe, read_clip, read_metadata

MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media"
CLIPS = sorted(MEDIA.glob("*.mp4"))
PICTURES = sorted(MEDIA.glob("*.jpg"))

if not CLIPS:
    pytest.skip(f"no real clips: {MEDIA.name} is not beside the checkout", allow_module_level=True)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
@pytest.mark.parametrize("references", [[], PICTURES[:1]], ids=["edit", "guided-edit"])
def test_a_real_clip_is_edited_at_its_own_ratio(clip, references, tmp_path):
    output = tmp_path / "out.mp4"
    pictures = [word for picture in references for word in ("--reference", str(picture))]
    prompt = "use Image 1 as the background" if references else "make it black and white"
    words = ["generate", "--source", str(clip), *pictures, "--prompt", prompt, "--steps", "1", "--output", str(output)]
    assert main([*words, "--quiet"]) == 0
    before, after = probe(clip), probe(output)
    assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.12)
    assert after.fps == 8
    assert len(read_clip(output, fps=8, max_frames=121).frames) == 17
    assert read_metadata(output)["prompt"] == prompt
