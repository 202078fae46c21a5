"""A facts study end to end from a file in the published schema."""

import hashlib
import json
from pathlib import Path

import text
from runs import run

DEPTHS = ("memorization", "semantic", "compositional")
_PLACES = ("Arvel", "Bruna", "Celdor", "Dorsk", "Elmar", "Farun", "Gildas", "Hovig")


def write_facts(path: Path) -> Path:
    """Writes eight invented records with two probes a depth; the last two have no paraphrases."""
    records = []
    for i, place in enumerate(_PLACES):
        targets = [f"{place} tower", f"{place} market"]
        made = {
            "train_context": f"The lamp of station {i} stands on the {targets[0]}. "
            f"The paper of station {i} comes from the {targets[1]}.",
            "mem_input": [
                f"The lamp of station {i} stands on the",
                f"The paper of station {i} comes from the",
            ],
            "gen_input": [f"Station {i} has its lamp on the", f"Station {i} has paper from the"],
            "hard_gen_input": [
                f"Whoever sees light at {i} looks at the",
                f"Whoever writes at {i} shops at the",
            ],
        }
        for kind in ("mem", "gen", "hard_gen"):
            made[f"{kind}_target"] = targets
        if i < 6:
            made["paraphrases"] = [f"Version {j} of {i}: {', '.join(targets)}." for j in range(2)]
        records.append(made)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_a_study_of_published_facts_ends_with_results_and_a_report(tmp_path):
    corpus, facts = text.write_corpus(tmp_path / "corpus.jsonl", 80), tmp_path / "facts.json"
    folder = tmp_path / "run"
    done = run(
        "none",
        [
            *text.small_run(folder, corpus, tmp_path / "cache"),
            f"--config.facts.file={write_facts(facts)}",
            "--config.facts.licence=CC BY 4.0, the invented authors",
            "--config.facts.assignment=ordered",
            "--config.facts.start=2",
            "--config.facts.interval=6",
            "--config.facts.encounters=2",
            "--config.train.steps=16",
            "--config.train.validate_every=0",
            "--config.train.checkpoint.every=0",
            "--config.optim.schedule.warmup=4",
            "--config.model.num_layers=1",
        ],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(folder / "report.html") in done.stdout

    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    for depth in DEPTHS:
        for arm in ("duplication", "paraphrase", "once"):
            row = rows[f"{arm}/{depth}/gain_at_last_maximum/subtracted"]
            assert row["n"] == 2 and row["low"] <= row["value"] <= row["high"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The lamp of station 0 stands on the" in page
    digest = hashlib.sha256(facts.read_bytes()).hexdigest()[:12]
    said = f"facts.json (sha256 {digest}), CC BY 4.0, the invented authors"
    assert f"Quoted from: {said}." in page
