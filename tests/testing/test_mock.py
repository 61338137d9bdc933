import asyncio
from unittest.mock import AsyncMock, Mock, call

import pytest

from perdure import App, Context, Retry, StepInfo, SyncContext, Transaction
from perdure.errors import InvalidInput, InvalidOption, RunFailed
from perdure.testing.kit import Kit

app = App("sqlite:////nowhere/mock.db")
ran = []


@app.step(retry=Retry(max_attempts=3, delay=60))
async def charge(card: str, cents: int) -> str:
    ran.append("charge")
    return f"{card}:{cents}"


def fetch(url: str) -> str:
    ran.append("fetch")
    return url


def store_row(transaction: Transaction, row: int) -> int:
    ran.append("store_row")
    return row


@app.workflow
async def pay(ctx: Context, cents: int) -> str:
    return await ctx.step(charge, "visa", cents)


@app.workflow
async def pay_quickly(ctx: Context, cents: int) -> str:
    return await ctx.step(charge.options(timeout=5, name="charge_quickly"), "visa", cents=cents)


@app.workflow
async def others(ctx: Context) -> list[object]:
    return [
        await ctx.step(fetch, "/a"),
        await ctx.step("named", lambda: ran.append("named")),
        await ctx.transaction(store_row, 7),
    ]


@app.workflow
def plain(ctx: SyncContext) -> str:
    return ctx.step(fetch, "/b")


@pytest.fixture
def kit(tmp_path):
    ran.clear()
    with Kit(app, tmp_path) as kit:
        yield kit


def test_a_step_returns_what_the_mock_says_and_its_calls_are_kept(kit):
    """A test would charge real cards, or could not tell what was charged."""
    with kit.mock(charge, returns="ch-1") as mock:
        assert kit.run(pay, 5, id="p") == "ch-1"
    assert ran == []
    assert mock.count == 1
    (made,) = mock.calls
    assert (made.args, made.kwargs) == (("visa", 5), {})
    assert made.step == StepInfo("p", "pay", "charge", 1, generation=1, epoch=1)


def test_the_real_body_is_back_afterwards(kit):
    """A mock of one test would answer in the next."""
    with kit.mock(charge, returns="ch-1"):
        pass
    assert kit.run(pay, 5) == "visa:5"
    assert ran == ["charge"]


def test_a_step_is_mocked_under_whatever_options_it_is_run(kit):
    """`charge.options(timeout=5)` in the workflow would charge for real."""
    with kit.mock(charge, returns="ch-2") as mock:
        assert kit.run(pay_quickly, 5) == "ch-2"
    assert mock.calls[0].kwargs == {"cents": 5}
    assert ran == []


def test_functions_closures_and_transactions_are_mocked(kit):
    """Only decorated steps could be mocked."""
    with kit.mock(fetch, returns="body"), kit.mock("named", returns=1), kit.mock(store_row, returns=8) as rows:
        assert kit.run(others) == ["body", 1, 8]
        assert kit.run(plain) == "body"
    assert ran == []
    assert rows.calls[0].args[1] == 7


def test_a_name_mocks_what_goes_by_it(kit):
    """A step that was given another name could not be mocked under it."""
    with kit.mock("charge_quickly", returns="ch-3"):
        assert kit.run(pay_quickly, 5) == "ch-3"
        assert kit.run(pay, 5) == "visa:5"


def test_the_last_mock_that_matches_wins(kit):
    """A test could not differ from what its fixture sets up."""
    with kit.mock(charge, returns="outer") as outer:
        with kit.mock("charge", returns="inner"):
            assert kit.run(pay, 5) == "inner"
        assert kit.run(pay, 5) == "outer"
    assert outer.count == 1


def test_what_a_mock_raises_is_retried_by_the_steps_policy(kit):
    """A test could not see what happens when a service is down for good."""
    before = kit.now
    with kit.mock(charge, raises=ConnectionError("down")) as mock, pytest.raises(RunFailed, match="down"):
        kit.run(pay, 5)
    assert [made.step.attempt for made in mock.calls] == [1, 2, 3]
    assert (kit.now - before).total_seconds() == 60 + 60  # the cap of the policy


def test_a_side_effect_runs_in_the_bodys_place(kit):
    """A mock could not answer by its arguments, or take time."""

    async def slowly(card: str, cents: int) -> str:
        await asyncio.sleep(100)
        return f"{card}/{cents}"

    with kit.mock(charge, side_effect=slowly):
        assert kit.run(pay, 5) == "visa/5"
    with kit.mock(charge, side_effect=lambda card, cents: f"{cents} from {card}"):
        assert kit.run(pay, 6) == "6 from visa"


def test_mocks_of_unittest_serve_as_side_effects(kit):
    """First failing, then succeeding, would need code of one's own."""
    service = Mock(side_effect=[OSError("first"), "second"])
    with kit.mock(charge, side_effect=service):
        assert kit.run(pay, 5) == "second"
    assert service.mock_calls == [call("visa", 5), call("visa", 5)]
    with kit.mock(fetch, side_effect=AsyncMock(return_value="awaited")):
        assert kit.run(plain) == "awaited"


def test_a_mock_is_held_to_the_steps_declared_type(kit):
    """A test would pass with a result that the real step can never give."""
    with kit.mock(charge, returns={"not": "a string"}), pytest.raises(RunFailed) as caught:
        kit.run(pay, 5)
    assert isinstance(caught.value.cause, InvalidInput)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (pay, {}),
        (7, {}),
        ("charge", {"returns": 1, "raises": ValueError}),
        (charge, {"raises": OSError, "side_effect": int}),
    ],
)
def test_nonsense_is_refused(kit, target, options):
    """A mock of a workflow, or with two answers, would silently do something else than meant."""
    with pytest.raises(InvalidOption), kit.mock(target, **options):
        pass
