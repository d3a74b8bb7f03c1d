"""Secrets are taken out of what is told; all else stays as it was."""

import pytest

from mtllm_ds.command_line import run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.redaction import redacted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("403, url='https://cdn.org/a/b?X-Amz-Signature=word&Expires=9'", "403, url='https://cdn.org/a/b?***'"),
        ("data set http://me:word@host:80/set: away", "data set http://***@host:80/set: away"),
        ("s3://KEY:word@bucket/set", "s3://***@bucket/set"),
        ("token=hf_AbCdEfGhIjKlMnOp is refused", "token=hf_*** is refused"),
        ("hf://datasets/user/name@main/file (is it there?)", "hf://datasets/user/name@main/file (is it there?)"),
        ("mail me@host about /a/b?c or hf_hub", "mail me@host about /a/b?c or hf_hub"),
    ],
)
def test_logins_queries_and_tokens_are_left_out(text, told):
    assert redacted(text) == told


def test_a_mistake_is_told_without_them(capsys, monkeypatch):
    def fail():
        raise UserError("run.note=hf_AbCdEfGhIjKlMnOp: no such setting; see https://me:word@host/")

    statuses = []
    monkeypatch.setattr("os._exit", statuses.append)
    with pytest.raises(SystemExit):
        run_and_exit(fail)
    assert statuses == [2]
    assert capsys.readouterr().err == "error: run.note=hf_***: no such setting; see https://***@host/\n"
