"""liger-kernel behind one setting: refused where it cannot run, equal to the plain model where it can."""

import pytest
import torch

from mtllm_ds.errors import UserError
from mtllm_ds.models.liger import use_liger_kernels
from tests.models.test_stacked import family_model


def test_refused_without_a_gpu():
    with pytest.raises(UserError, match=r"model\.liger=true.*CUDA"):
        use_liger_kernels(family_model("llama"), torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma"])
def test_the_states_stay_the_same(family):
    pytest.importorskip("liger_kernel")
    model = family_model(family).cuda()
    ids = torch.randint(3, 60, (2, 9), device="cuda")
    plain = model(input_ids=ids).last_hidden_state
    use_liger_kernels(model, torch.device("cuda"))
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state, plain, atol=1e-4, rtol=1e-4)
