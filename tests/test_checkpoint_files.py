"""Checkpoints on disk: what a run that was cut off while it saved leaves behind."""

from strategies.atomic import finish_interrupted_save


def test_a_save_cut_off_between_its_renames_leaves_the_checkpoint_before_it(tmp_path):
    (tmp_path / "last.ckpt.old").mkdir()
    (tmp_path / "last.ckpt.part").mkdir()
    finish_interrupted_save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.part"]


def test_a_finished_save_is_never_replaced_by_the_one_before(tmp_path):
    for name in ("last.ckpt", "last.ckpt.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    finish_interrupted_save(tmp_path)
    assert (tmp_path / "last.ckpt" / "who").read_text() == "last.ckpt"
