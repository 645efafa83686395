"""How lines of code are named."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from weft.frontend.location import function_location


def test_a_file_of_the_working_folder_is_named_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = test_a_file_of_the_working_folder_is_named_from_there
    whole = test.__code__.co_filename
    folder, _, name = whole.rpartition("/")
    monkeypatch.chdir(folder)
    assert function_location(test).partition(":")[0] == name
    monkeypatch.chdir(tmp_path)
    assert function_location(test).partition(":")[0] == whole


def test_a_file_of_an_installed_package_is_named_from_where_packages_lie() -> None:
    assert function_location(httpx.get).partition(":")[0] == "httpx/_api.py"
