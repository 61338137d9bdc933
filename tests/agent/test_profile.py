"""What makes a profile that looks complete fail."""

from perdure.agent import AgentProfile, SubAgent, check_profile

GOOD = AgentProfile(
    prompt="You answer questions about orders. " * 30,
    tools=["find_order"],
    provided=["find_order", "cancel_order"],
    subagents=[SubAgent("billing", "Answers what concerns invoices, refunds and cards.", "You look at invoices. " * 8)],
)


def codes(profile, **options):
    found = check_profile(profile, **options)
    assert found.valid == (not found.errors)
    return {(each.severity, each.code, each.path) for each in [*found.errors, *found.warnings]}


def test_a_sound_profile_has_no_remarks():
    """X26: each remark would be ignored if there were always some."""
    assert codes(GOOD) == set()


def test_everything_that_is_wrong_is_told_at_once():
    """X26: mistakes would be found one by one, by users."""
    bad = AgentProfile(
        prompt="   Be nice.   ",
        tools=["Bash", "find_order", "mine"],
        subagents=[SubAgent("billing", "Bills.", "TODO"), SubAgent("other", "x" * 50, "[Your agent here] " * 10)],
    )
    assert codes(bad, allowed=["mine"]) == {
        ("error", "system_prompt_too_short", "prompt"),
        ("error", "shell_capability_as_tool", "tools.Bash"),
        ("error", "tool_without_provider", "tools.find_order"),
        ("error", "subagent_description_too_short", "subagents.billing.description"),
        ("error", "subagent_prompt_too_short", "subagents.billing.prompt"),
        ("warning", "subagent_scaffold_left", "subagents.billing.prompt"),
        ("warning", "subagent_scaffold_left", "subagents.other.prompt"),
    }
    assert ("error", "subagent_scaffold_left", "subagents.other.prompt") in codes(bad, strict=True)


def test_how_long_a_prompt_must_be_is_a_choice():
    """X26: a short prompt that is enough could not be declared."""
    short = AgentProfile(prompt="Answer yes or no.")
    assert codes(short, least_prompt=10) == set()


def test_one_tool_is_one_tool():
    """A tool would count as provided because its name is a part of another one's, and the model call it in vain."""
    profile = AgentProfile(prompt="x", tools="find", provided="find_order")
    assert ("error", "tool_without_provider", "tools.find") in codes(profile)
    assert codes(profile, least_prompt=1, allowed="find") == set()
