import pytest

from rlnsp import plugins


def test_an_installed_reward_is_found_by_its_exact_name():
    assert plugins.find("rewards", "nsp_reward").__name__ == "NSPReward"


def test_a_misspelt_name_gets_the_nearest_and_the_list():
    with pytest.raises(plugins.UnknownPlugin, match=r"did you mean 'nsp_reward'\?; installed: .*nsp_reward"):
        plugins.find("rewards", "nsp_rewrad")


def test_a_name_like_nothing_gets_no_guess():
    with pytest.raises(plugins.UnknownPlugin, match="among the installed rewards; installed: "):
        plugins.find("rewards", "zzzzzz")


def test_a_module_and_attribute_need_no_entry_point():
    assert plugins.find("rewards", "math:sqrt")(4.0) == 2.0


def test_a_file_and_attribute_need_no_package(plugin_file):
    assert plugins.find("rewards", f"{plugin_file}:Mine").Config().target == 0.5


def test_a_file_is_loaded_once_so_its_classes_are_equal(plugin_file):
    assert plugins.find("rewards", f"{plugin_file}:Mine") is plugins.find("rewards", f"{plugin_file}:Mine")


def test_two_files_of_one_name_do_not_mix(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"name = {folder!r}\n")
    found = [plugins.find("rewards", f"{tmp_path / folder / 'same.py'}:name") for folder in ("a", "b")]
    assert found == ["a", "b"]


def test_a_plain_function_is_returned_as_it_is(plugin_file):
    assert plugins.find("rewards", f"{plugin_file}:plain")(["a"], ["video"]) == [0.0]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("{file}:Mien", "has no 'Mien'; did you mean 'Mine'?"),
        ("{file}", "write .*mine.py:NAME"),
        ("absent.py:Mine", "there is no file .*absent.py"),
        ("no_such_package.rewards:Mine", "there is no module 'no_such_package.rewards'"),
        ("math:squrt", "math has no 'squrt'; did you mean 'sqrt'?"),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(use, message, plugin_file):
    with pytest.raises(plugins.UnknownPlugin, match=message.replace("?", r"\?")):
        plugins.find("rewards", use.format(file=plugin_file))


def test_a_dependency_missing_inside_a_plugin_is_not_mistaken_for_a_missing_plugin(tmp_path, monkeypatch):
    (tmp_path / "wants_more.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        plugins.find("rewards", "wants_more:Reward")


def test_a_file_that_fails_is_tried_afresh(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        plugins.find("rewards", f"{path}:value")
    path.write_text("value = 3\n\n")
    assert plugins.find("rewards", f"{path}:value") == 3


def test_a_files_path_is_made_absolute_and_names_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plugins.absolute("mine.py:Mine") == f"{tmp_path}/mine.py:Mine"
    assert plugins.absolute("nsp_reward") == "nsp_reward"
    assert plugins.absolute("package.module:Mine") == "package.module:Mine"
