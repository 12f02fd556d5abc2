"""What a run will export is written once, small, before its first step; at its end each model is written
whatever becomes of the others."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.callbacks.results import folder_errors
from experiments.cli.program import main
from modules import export_check, hf_export
from modules.errors import UserError
from tests.ranks import weights

COMMON = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
PPO = [*COMMON, "--data.init_args.global_batch_size=8", "--model.init_args.epochs=1"]
PPO += ["--model.init_args.minibatches=2"]


@pytest.fixture
def lines(capsys):
    """Runs a command line that is to fail; gives its lines on stderr."""

    def run(line):
        assert main(line) == 2
        return [told for told in capsys.readouterr().err.splitlines() if told.startswith("trivium: ")]

    return run


def unsaved(monkeypatch, folder):
    """Lets the models of folders of that name fail as on a full disk."""
    write = hf_export._write_model

    def fail(export, *args):
        if export.folder == folder:
            raise OSError(28, "No space left on device")
        write(export, *args)

    monkeypatch.setattr(hf_export, "_write_model", fail)


@pytest.mark.parametrize("folder", ["", "critic"])
def test_what_could_not_be_saved_is_refused_before_the_first_step(tiny_stages, lines, monkeypatch, folder):
    unsaved(monkeypatch, folder)
    run = tiny_stages.out / f"refused_{folder}"
    (told,) = lines([*tiny_stages.stage("ppo", run=run.name), *PPO])
    assert told.startswith("trivium: export: what is trained could not be saved")
    assert told.endswith("No space left on device: mend that, or take another network")
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("folder", ["", "critic"])
def test_where_one_model_cannot_be_written_the_others_are(
    tiny_stages, lines, monkeypatch, folder, tmp_path, capsys
):
    run = tiny_stages.out / f"half_{folder}"
    line = [*tiny_stages.stage("ppo", run=run.name), *PPO]
    with monkeypatch.context() as patch:
        patch.setattr("modules.stage.check_exports", lambda exports, tokenizer: None)  # the disk fills later
        unsaved(patch, folder)
        told = lines(line)
    assert told == [
        f"trivium: export: {run / 'export' / folder} cannot be written as "
        f"{'AutoModelForTokenClassification' if folder else 'AutoModelForCausalLM'}: OSError: [Errno 28] No "
        "space left on device: mend that, and let `trivium export` write it from the last checkpoint",
        f"trivium: export: {run / 'export'} has all other parts",
    ]
    other = "critic" if not folder else "."
    assert (run / "export" / other / "model.safetensors").is_file()
    assert (run / "export" / (folder or ".") / "model.safetensors").exists() is False
    assert main(["export", str(run / "checkpoints" / "last.ckpt"), str(tmp_path / "out")]) == 0
    whole, kept = weights(tmp_path, f"out/{other}"), weights(run, f"export/{other}")
    assert all(torch.equal(whole[name], kept[name]) for name in kept)
    assert (tmp_path / "out" / folder / "model.safetensors").is_file()


def test_where_nothing_can_be_written_the_export_before_stays(tiny_stages, monkeypatch, tmp_path):
    shutil.copytree(tiny_stages.export("sft"), tmp_path / "export")
    before = weights(tmp_path)
    unsaved(monkeypatch, "")
    line = ["export", str(tiny_stages.out / "sft/checkpoints/last.ckpt"), str(tmp_path / "export")]
    assert main([*line, "--overwrite"]) == 2
    assert weights(tmp_path).keys() == before.keys()
    AutoModelForCausalLM.from_pretrained(tmp_path / "export")


def test_the_trial_draws_no_random_number_of_the_run_and_leaves_nothing(tiny_stages, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = json.loads((tiny_stages.out / "sft/export/config.json").read_text())
    spec = hf_export.ExportSpec("network.model", hf_export.LANGUAGE_MODEL, "sft", None, config=config)
    export_check._small_network.cache_clear()
    before = torch.get_rng_state()
    export_check.check_exports([spec], AutoTokenizer.from_pretrained(tiny_stages.export("sft")))
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())
    spec = spec._replace(generation_config={"max_new_tokens": -1})
    with pytest.raises(UserError, match="generation_config.json of the start cannot be saved again"):
        export_check.check_exports([spec], AutoTokenizer.from_pretrained(tiny_stages.export("sft")))


def test_a_folder_that_cannot_hold_results_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (told,) = folder_errors(tmp_path / "file" / "run")
    assert told.startswith(f"run: nothing can be written to {tmp_path / 'file'}: Not a directory")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "export").write_text("mine")
    (told,) = folder_errors(tmp_path / "run")
    assert told.startswith(f"run: {tmp_path / 'run' / 'export'} is a file")
    assert folder_errors(tmp_path / "new" / "run") == []
    assert not (tmp_path / "new").exists()
