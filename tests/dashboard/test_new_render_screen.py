"""Form for new clips: problems at their fields."""

from pathlib import Path

from textual.widgets import Input, TextArea

from pvtool.dashboard.screens.new_render import NewRenderScreen
from pvtool_core.store.consent_checks import revoke_consent
from tests.support.sample_data import add_identity
from tests.support.screen_text import dashboard, until_screen, until_seen


async def test_problems_are_shown_at_their_fields(home: Path) -> None:
    add_identity("ada")
    async with dashboard().run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await until_seen(pilot, "Press n to render clips")
        await pilot.press("n")
        screen = await until_screen(pilot, NewRenderScreen)
        await until_seen(pilot, "New clips", "ada")
        screen.query_one("#prompts", TextArea).text = "a woman walks"
        screen.query_one("#seeds", Input).value = "0..x"
        screen.query_one("#strength", Input).value = "9"
        await until_seen(pilot, "0..x'", "<V>", "strength")
        screen.query_one("#prompts", TextArea).text = "<V> woman walks"
        screen.query_one("#seeds", Input).value = "0..3"
        screen.query_one("#strength", Input).value = ""
        await until_seen(pilot, "Train one with `pv train ada`.")
        assert screen.query_one("#run-field Note").has_class("-error")
        revoke_consent("ada")
        screen.query_one("#seeds", Input).value = "0..4"
        await until_seen(pilot, "The consent of ada was revoked on")
        assert screen.query_one("#identity-field Note").has_class("-error")
