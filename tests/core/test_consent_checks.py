"""The engine records consent, and stops once it is revoked, whatever its job says."""

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from pvtool_core.errors import ConsentRefused
from pvtool_core.media.metadata import read_facts
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.consent_checks import (
    consent_of_adapter,
    require_consent_of_adapter,
    revoke_consent,
)
from pvtool_core.store.consent_record import Consent, ConsentTerms
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import Event, StepEvent
from pvtool_core.store.identities import Identity
from pvtool_core.store.liveness import Heartbeat
from pvtool_core.store.runs import RunFolder
from pvtool_core.trainer import train
from tests.support.render_jobs import Engine, item, render_job
from tests.support.sample_data import add_identity_of_noise


@pytest.fixture
def ann(run: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """Add an identity to a library of its own."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    return add_identity_of_noise("ann")


@pytest.fixture
def of_ann(job: TrainJob, ann: Identity) -> TrainJob:
    """Return a short job for her."""
    short = dataclasses.replace(
        job.training, iterations=3, checkpoint_every=1, sample_every=0, score_samples=False
    )
    return dataclasses.replace(job, identity=ann.ref, training=short)


class RevokingEvents(EventWriter):
    """Events during which consent is revoked, after the first step."""

    def write(self, event: Event) -> None:
        super().write(event)
        if isinstance(event, StepEvent) and event.step == 1:
            revoke_consent("ann")


def test_adapter_records_consent_and_training_stops_once_it_is_revoked(
    of_ann: TrainJob, ann: Identity, run: Engine, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run").create()
    with (
        RevokingEvents(folder.events) as events,
        Heartbeat(folder.status) as heartbeat,
        pytest.raises(ConsentRefused, match="The consent of ann was revoked"),
    ):
        train(of_ann, folder, events, heartbeat)
    (checkpoint,) = folder.checkpoint_folders()
    adapter = checkpoint / "adapter.safetensors"
    with safe_open(adapter, "pt") as file:
        metadata = file.metadata()
    assert metadata["consent_scope"] == "private"
    assert metadata["consent_sha256"] == consent_of_adapter(adapter) == ann.consent.sha256
    assert "yes" not in metadata.values(), "the statement"
    with pytest.raises(ConsentRefused):
        require_consent_of_adapter(adapter)
    ended = run(of_ann)
    assert (ended.status, ended.kind) == (3, "ConsentRefused")


def test_clip_records_consent_and_a_forged_item_of_a_revoked_identity_is_refused(
    of_ann: TrainJob, ann: Identity, run: Engine, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    clip = tmp_path / "out/ann/waves-0123/seed-000003"
    ref = ann.ref
    wanted = item(clip, adapter=adapters["strong"], folder=ref.folder)
    wanted = dataclasses.replace(wanted, scope=ref.scope, consent=ref.consent)
    base = item(clip.with_name("seed-000004"), seed=4)
    assert run(render_job(of_ann, wanted, base)).status == 0
    recorded = {"consent_scope": "private", "consent_sha256": ref.consent}
    for facts in (
        json.loads(clip.with_suffix(".json").read_text()),
        read_facts(clip.with_suffix(".mp4")),
    ):
        assert {key: facts[key] for key in recorded} == recorded
    assert "consent_sha256" not in json.loads(Path(f"{base.clip}.json").read_text())

    revoke_consent("ann")
    for forged in (wanted, dataclasses.replace(wanted, folder="", identity="bob")):
        ended = run(render_job(of_ann, forged, overwrite=True))
        assert (ended.status, ended.kind) == (3, "ConsentRefused")
    assert run(render_job(of_ann, base, overwrite=True)).status == 0


def test_expired_date_that_is_no_date_counts_as_past() -> None:
    consent = Consent(statement="yes", terms=ConsentTerms(scope="tests", expires="tomorrow"))
    assert (consent.state(), consent.refusal) == ("expired", "expired on tomorrow")
