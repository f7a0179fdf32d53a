"""Writes torch_small.bin beside itself; run it where torch is installed."""

from collections import OrderedDict
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]


def main() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = OrderedDict(
        float32=base,
        transposed=base.T,
        slice=base[1:, 2:],
        float16=base.half(),
        bfloat16=base.bfloat16(),
        int64=torch.tensor([1, -2, 3]),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(base * 2),
        float8=torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
        uint16=torch.tensor([1, 65535], dtype=torch.uint16),
    )
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    state.update(model.state_dict())
    vars(state)["_metadata"] = vars(model.state_dict())["_metadata"]  # what a module's state_dict carries
    torch.save(state, Path(__file__).with_name("torch_small.bin"))


if __name__ == "__main__":
    main()
