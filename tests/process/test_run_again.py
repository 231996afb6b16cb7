"""What the summary advises for failed tasks works."""

from pathlib import Path


def test_failed_tasks_moved_to_toprocess_run_again_and_only_they(create_place):
    place = create_place(["echo $PROC_NUMBER >> ran", "echo 1 >> ran; [ -e ready ]"])
    assert place.run() == 1
    Path(place.directory, "ready").touch()
    (place.workdir / "failed").rename(place.workdir / "toprocess")
    assert place.run() == 0
    assert sorted(Path(place.directory, "ran").read_text().split()) == ["0", "1", "1"]
    place.assert_sound()
