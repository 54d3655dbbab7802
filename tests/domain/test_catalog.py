"""What a request's model brings with it."""

from server.domain.catalog import Catalog

MODELS = Catalog(
    dimension="model",
    entries={name: {"provider": "groq", "model": "whisper"} for name in ("whisper", "transcribe")},
    closed=frozenset({"speech"}),
)


def test_an_alias_is_its_value_with_all_that_it_brings() -> None:
    asked = {"model": "transcribe", "project": "p"}

    assert MODELS.resolved(asked) == {"model": "whisper", "provider": "groq", "project": "p"}
    assert MODELS.resolved(MODELS.resolved(asked)) == MODELS.resolved(asked)


def test_what_is_not_listed_stays_as_it_is_and_only_a_closed_action_refuses_it() -> None:
    asked = {"model": "other"}

    assert MODELS.resolved(asked) is asked
    assert MODELS.violations("chat", asked) == []
    assert MODELS.violations("chat", {}) == []
    (bad,) = MODELS.violations("speech", asked)
    assert bad == ("scope[model]", "is 'other', which is not known; speech has: whisper")
    (missing,) = MODELS.violations("speech", {})
    assert missing == ("scope[model]", "is required; speech has: whisper")


def test_a_dimension_at_odds_with_the_model_is_named() -> None:
    (bad,) = MODELS.violations("chat", {"model": "transcribe", "provider": "vertex"})

    assert bad == ("scope[provider]", "is 'vertex'; model 'transcribe' goes with 'groq'")
    assert MODELS.violations("chat", {"model": "transcribe", "provider": "groq"}) == []
