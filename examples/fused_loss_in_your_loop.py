"""`fused_linear_kl` in a training loop of your own: a small student learns a frozen teacher's next-token distributions.

The (tokens, vocabulary) logits never exist: hidden states and heads go in, the loss and its gradient come out.

python examples/fused_loss_in_your_loop.py
"""

import torch
from mtllm_kernels import fused_linear_kl
from torch import nn

TOKENS, VOCABULARY, TEACHER_WIDTH, STUDENT_WIDTH = 256, 2000, 64, 32


def main(num_steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    teacher_head = torch.randn(VOCABULARY, TEACHER_WIDTH) / TEACHER_WIDTH**0.5
    inputs, teacher_hidden = torch.randn(TOKENS, 16), 4 * torch.randn(TOKENS, TEACHER_WIDTH)
    body = nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, STUDENT_WIDTH))
    head = nn.Linear(STUDENT_WIDTH, VOCABULARY, bias=False)  # trained as well; a frozen head costs no gradient
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=1e-2)
    valid = torch.arange(TOKENS) % 8 != 0  # padding and prompts count for nothing
    losses = []
    for step in range(num_steps):
        loss = fused_linear_kl(
            body(inputs), head.weight, teacher_hidden, teacher_head, divergence="forward_kl", valid=valid
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step == num_steps - 1:
            print(f"step {step:3}  KL {loss.item():.4f}")
    return losses


if __name__ == "__main__":
    main()
