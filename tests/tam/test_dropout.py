import pytest
import torch

from zerogen.tam.dropout import QuarterDropout, quarter_dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_mean_are_those_of_dropout(p: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = QuarterDropout(p)(torch.ones(1001, 1001))
    deviation = (p * (1 - p) / out.numel()) ** 0.5
    assert abs(float((out == 0).float().mean()) - p) < 4 * deviation
    torch.testing.assert_close(out.max().item(), 1 / (1 - p), atol=1e-4, rtol=0)
    # Neighbours come from one number: they must not be dropped together more often than by chance.
    dropped = (out.flatten() == 0).float()
    together = float((dropped[:-1] * dropped[1:]).mean())
    assert abs(together - p * p) < 4 * (p * p / out.numel()) ** 0.5


def test_gradients_flow_through_kept_elements_only() -> None:
    x = torch.ones(50, 7, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = QuarterDropout(0.3)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_evaluation_changes_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    names, own = list(model.state_dict()), model[1]
    with quarter_dropout(model):
        assert isinstance(model[1], QuarterDropout)
        assert list(model.state_dict()) == names
        model.eval()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model(x), model[0](x))
    assert model[1] is own
