"""An output folder is tried before any work, by all who will write there at once."""

from concurrent.futures import ThreadPoolExecutor

from mtllm_ds.data.writing.output import check_output


def test_many_try_a_folder_at_the_same_time_and_leave_nothing(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(check_output, [tmp_path / "out"] * 400):
            pass
    assert list((tmp_path / "out").iterdir()) == []
