"""One stage of a run: taken as finished, or worked on and closed with a manifest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rung.base import trace
from rung.base.errors import Drift, GateFailed, RungError
from rung.base.events import Events
from rung.base.fingerprint import Code, differing, plain
from rung.pipeline.budget import Budget, Spend
from rung.pipeline.environment import describe
from rung.pipeline.estimate import at_once, compare, stage_estimate
from rung.pipeline.identity import MODEL_INPUT, content_of
from rung.pipeline.job import Job
from rung.pipeline.ledger import Entry, seal_of, utc_now
from rung.pipeline.outputs import StageOutputs, begun_identity
from rung.pipeline.ranks import joined
from rung.pipeline.recipe import StageSpec
from rung.pipeline.replace import begun_again, discard_replaced, set_aside
from rung.pipeline.session import Session, storage_named
from rung.pipeline.stage import Context, Estimate, Verdict
from rung.pipeline.verify import CODE_BYPASS, check_output, gate_bypass, gate_failure, recompute
from rung.records.manifest import FILE_NAME, Manifest, Opened, write_manifest

__all__ = ["take_finished", "work"]


class _DegradedNotes:
    """A sink that carries degradations into the stage's manifest."""

    def __init__(self, outputs: StageOutputs) -> None:
        self._outputs = outputs

    def handle(self, event: dict[str, Any]) -> None:
        """Keep a degradation, pass over the rest."""
        if event["kind"] == "degraded":
            self._outputs.degraded(event["what"], event["how"])

    def close(self) -> None:
        """Nothing is held."""


def take_finished(session: Session, spec: StageSpec) -> str:
    """Check a finished output and skip the work. Returns how it counts: skipped, or forced.

    Raises:
        DataError, GateFailed: it does not hold what its manifest says, or its gate says no and nobody forces it.
        Drift: it was made from inputs that have other content now.
    """
    folder = session.folder / spec.name
    checked = check_output(folder, spec.name, spec.stage, session.ledger.seal(spec.name))
    manifest, outcome = checked.opened.manifest, "skipped"
    now = {name: content_of(opened) for name, opened in _inputs(session, spec).items()}
    if rows := differing(manifest.inputs_content, now):
        raise Drift(
            f"it was made from other records than its inputs hold now: {'; '.join(rows)}",
            place=spec.name,
            hint=f"make it again: --rebuild {spec.name}",
        )
    opened = checked.opened
    if not checked.usable:
        if spec.name not in session.options.force:
            raise gate_failure(spec.name, checked.verdict)
        bypass = gate_bypass(spec.name) + "; ".join(checked.verdict.reasons)
        forced = manifest.model_copy(update={"outcome": "done", "bypasses": [*manifest.bypasses, bypass]})
        _write(session, forced)
        opened, outcome = Opened(folder, forced), "forced"
    _outputs(session, spec)[0].remove_work()
    discard_replaced(session.folder, spec.name)
    session.opened[spec.name] = opened
    return outcome


def work(session: Session, spec: StageSpec) -> tuple[str, Spend]:
    """Run a stage, or go on with it, and write its manifest. Returns (done or forced, the attempt's spend).

    Raises:
        GateFailed: the manifest is written and says so; later stages must not run.
        RungError: any other named ending; what is finished stays on disk.
    """
    _require_known_code(session, spec)
    _make_room(session, spec)
    identity = session.identities[spec.name]
    outputs, events = _outputs(session, spec)
    attempt = session.ledger.next_attempt()
    outputs.begin(identity.text, attempt, {name: content_of(opened) for name, opened in _inputs(session, spec).items()})
    session.ledger.append(Entry(event="started", stage=spec.name, attempt=attempt, fingerprint=identity.fingerprint))
    budget = Budget(session.recipe.budget, session.ledger.spent(), session.stop.requested, saved=outputs.save_spend)
    outcome, message = "crashed", ""
    try:
        with storage_named(spec.name), events.span("stage", export=True):
            verdict = _run_and_close(session, spec, outputs, budget, events)
        outcome, message = session.opened[spec.name].manifest.outcome, "; ".join(verdict.reasons)
    except RungError as error:
        outcome, message = error.code, error.message
        raise
    finally:
        spend = budget.settle()
        _record_end(session, spec, attempt, outcome=outcome, message=message, spend=spend)
    outputs.remove_work()
    if outcome != "done":
        del session.opened[spec.name]
        raise gate_failure(spec.name, verdict)
    discard_replaced(session.folder, spec.name)
    return ("done" if verdict.passed else "forced"), spend


def _require_known_code(session: Session, spec: StageSpec) -> None:
    """Asked before the work: a refusal after ten minutes of it would cost more than it protects."""
    code = session.code
    if not code.known and not session.options.allow_dirty:
        raise GateFailed(
            _code_problem(code),
            place=f"{spec.name}: code",
            hint="commit rung's source (for a clone of another user: git config --global --add safe.directory FOLDER), "
            "or go on all the same with --allow-dirty (recorded in every manifest downstream)",
        )


def _code_problem(code: Code) -> str:
    if code.dirty:
        return f"rung's own source has changes that are not committed, on top of {code.commit[:12]}"
    return f"rung's own source belongs to no commit (source hash {code.source_hash[:12]})"


def _make_room(session: Session, spec: StageSpec) -> None:
    """On a rebuild, move the old output aside; a rebuild that was interrupted goes on instead of starting over."""
    if spec.name not in session.options.rebuild:
        return
    manifest = session.folder / spec.name / FILE_NAME
    begun = begun_identity(session.folder / spec.name)
    again = begun_again(session.folder, spec.name) and begun == session.identities[spec.name].text
    if manifest.is_file() or not again:
        set_aside(session.folder, spec.name)


def _outputs(session: Session, spec: StageSpec) -> tuple[StageOutputs, Events]:
    """The stage's writers, and its events, whose degradations go into its manifest."""
    plain_events = Events(session.sinks, run=session.recipe.run, stage=spec.name)
    outputs = StageOutputs(session.folder / spec.name, spec.stage.outputs, plain_events, spec.name)
    return outputs, Events((*session.sinks, _DegradedNotes(outputs)), run=session.recipe.run, stage=spec.name)


def _inputs(session: Session, spec: StageSpec) -> dict[str, Opened]:
    return {name: session.opened[target] for name, target in spec.inputs.items()}


def _run_and_close(session: Session, spec: StageSpec, outputs: StageOutputs, budget: Budget, events: Events) -> Verdict:
    started, inputs = utc_now(), _inputs(session, spec)
    identity, bypasses = session.identities[spec.name], _bypasses(session, spec)
    expected = stage_estimate(spec, inputs, identity, session.options.rates, session.recipe.terms)
    budget.poll()
    context = _context(session, spec, outputs, budget, events)
    with joined(session.options.together, spec.stage, context):
        spec.stage.run(context, inputs, outputs)
    draft = _draft(session, spec, outputs, started, bypasses)
    figures, verdict = recompute(spec.stage, Opened(session.folder / spec.name, draft), spec.name)
    spent = session.ledger.spent(spec.name, identity.fingerprint) + budget.settle()
    manifest = draft.model_copy(
        update={
            "figures": {**draft.figures, **figures},
            "gate": plain(verdict),
            "spend": asdict(spent),
            "estimate": compare(at_once(expected, session.recipe.executor.num_workers), spent),
            "ended": utc_now(),
            **_outcome(session, spec, verdict, bypasses),
        }
    )
    _report_cost(events, expected, spent)
    model = identity.parents.get(MODEL_INPUT, "")
    session.options.rates.remember(spec.kind, model, spec.stage.units(inputs), spent)
    _write(session, manifest)
    session.opened[spec.name] = Opened(session.folder / spec.name, manifest)
    return verdict


def _context(session: Session, spec: StageSpec, outputs: StageOutputs, budget: Budget, events: Events) -> Context:
    identity, bypasses = session.identities[spec.name], _bypasses(session, spec)
    job = Job(
        run=session.recipe.run,
        name=spec.name,
        kind=spec.kind,
        settings=spec.settings,
        seed=identity.seed,
        model_source=session.recipe.model if spec.stage.uses_model else "",
        fingerprint=identity.fingerprint,
        bypasses=bypasses,
        price_per_hour=session.recipe.budget.price_per_hour,
        prices=dict(session.recipe.prices),
        inputs={name: (session.folder / target).resolve() for name, target in spec.inputs.items()},
        models=session.options.worker_models,
        folder=outputs.workers.resolve(),
        traceparent=trace.carrier().get(trace.VARIABLE, ""),
    )
    return Context(
        run=job.run,
        name=job.name,
        seed=job.seed,
        events=events,
        budget=budget,
        models=session.models,
        scratch=outputs.scratch,
        executor=session.recipe.executor,
        job=job,
        model_source=job.model_source,
        fingerprint=job.fingerprint,
        bypasses=bypasses,
        only=session.options.shards.get(spec.name),
    )


def _bypasses(session: Session, spec: StageSpec) -> tuple[str, ...]:
    inherited = [text for opened in _inputs(session, spec).values() for text in opened.manifest.bypasses]
    own = [] if session.code.known else [CODE_BYPASS + _code_problem(session.code)]
    return tuple(dict.fromkeys([*inherited, *spec.stage.known_by().bypasses, *own]))


def _outcome(session: Session, spec: StageSpec, verdict: Verdict, bypasses: tuple[str, ...]) -> dict[str, Any]:
    if verdict.passed:
        return {"outcome": "done", "bypasses": list(bypasses)}
    if spec.name in session.options.force:
        return {"outcome": "done", "bypasses": [*bypasses, gate_bypass(spec.name) + "; ".join(verdict.reasons)]}
    return {"outcome": "gate_failed", "bypasses": list(bypasses)}


def _draft(
    session: Session, spec: StageSpec, outputs: StageOutputs, started: str, bypasses: tuple[str, ...]
) -> Manifest:
    """The manifest without what can only be known by reading the output back."""
    shards, files = outputs.close()
    inputs, identity, notes = _inputs(session, spec), session.identities[spec.name], outputs.notes
    settings, origins = spec.with_derived(spec.stage.derived(inputs))
    return Manifest(
        run=session.recipe.run,
        name=spec.name,
        stage=spec.kind,
        stage_version=spec.stage.version,
        fingerprint=identity.fingerprint,
        identity=identity.text,
        settings=settings,
        origins=origins,
        parents=dict(identity.parents),
        inputs_content={name: content_of(opened) for name, opened in inputs.items()},
        shards=shards,
        files=files,
        drops=notes["drops"],
        figures=notes["figures"],
        calibration=notes["calibration"],
        model={**({"source": session.recipe.model} if spec.stage.uses_model else {}), **notes["model"]},
        seeds={"recipe": session.recipe.seed, "stage": identity.seed, **notes["seeds"]},
        code=session.code,
        environment={**describe(), **session.options.environment},
        degraded=outputs.degradations,
        bypasses=list(bypasses),
        started=started,
        ended=started,
        outcome="done",
    )


def _report_cost(events: Events, expected: Estimate, spent: Spend) -> None:
    text = f"{spent.seconds:.1f} s, {spent.tokens:.0f} tokens, {spent.money:.2f} money"
    basis = f"; expected {expected.seconds:.1f} s ({expected.basis})" if expected.seconds else ""
    events.log(f"spent {text}{basis}")


def _write(session: Session, manifest: Manifest) -> None:
    """Seal first, then write: killed in between, the stage closes again and takes a new seal."""
    session.ledger.append(
        Entry(event="sealed", stage=manifest.name, fingerprint=manifest.fingerprint, seal=seal_of(manifest))
    )
    write_manifest(session.folder / manifest.name, manifest)


def _record_end(session: Session, spec: StageSpec, attempt: int, *, outcome: str, message: str, spend: Spend) -> None:
    session.ledger.append(
        Entry(
            event="ended",
            stage=spec.name,
            attempt=attempt,
            fingerprint=session.identities[spec.name].fingerprint,
            outcome=outcome,
            message=message,
            spend=asdict(spend),
        )
    )
