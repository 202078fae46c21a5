"""One checkpoint has one name, from wherever it is named."""

from experiments.compared import whole


def test_paths_are_whole_and_revisions_as_given(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "b@c").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setenv("HOME", str(tmp_path))
    a = str(tmp_path / "runs/a")
    assert whole(["a", "./a/", "../runs/a", "~/runs/a", tmp_path / "runs/a"]) == (a,) * 5
    assert whole(["../runs/*"]) == (f"{tmp_path}/runs/*",)
    assert whole(["owner/model@step1", "model@step*"]) == ("owner/model@step1", "model@step*")
    monkeypatch.chdir(tmp_path)
    assert whole(["b@c", "b@*"]) == (f"{tmp_path}/b@c", f"{tmp_path}/b@*")  # there are such folders
