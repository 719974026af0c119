"""A review as a gate: a stage that demands one is closed to later stages until a reviewer has approved of it."""

from __future__ import annotations

from rung.base.errors import GateFailed, ReviewPending
from rung.pipeline.ledger import Entry, seal_of
from rung.pipeline.recipe import StageSpec
from rung.pipeline.review.ask import Review, ReviewContext, held_review, request_methodology_review
from rung.pipeline.review.settings import ReviewDemand
from rung.pipeline.session import Session
from rung.records.manifest import Opened, write_manifest

__all__ = ["demand_review"]


def demand_review(session: Session, spec: StageSpec) -> None:
    """Ask for the review that `spec` demands, unless it is there or was gone past on purpose before.

    Raises:
        GateFailed: it was not approved, or no review came.
        ReviewPending: it is asked for and not answered yet.
        BudgetSpent: the cap on money has no room for it.
    """
    demand, passed_by = spec.review, f"review of {spec.name}: "
    if demand is None or any(text.startswith(passed_by) for text in session.opened[spec.name].manifest.bypasses):
        return
    context = _context(session, spec, demand)
    if spec.name in session.options.force:
        held = held_review(demand.question, context)
        if held is None or not held.approved:
            _go_past(session, spec, passed_by + ("not asked for" if held is None else "not approved"))
        return
    review = request_methodology_review(demand.question, context)
    if review.pending:
        del session.opened[spec.name]
        raise ReviewPending(review.problem, place=spec.name)
    if not review.approved:
        del session.opened[spec.name]
        raise _not_approved(spec.name, review)


def _context(session: Session, spec: StageSpec, demand: ReviewDemand) -> ReviewContext:
    cap = session.recipe.budget.money
    return ReviewContext(
        folder=session.folder,
        reviewer=demand.reviewer,
        stages=(*dict.fromkeys(spec.inputs.values()), spec.name),
        limits=demand.limits,
        money_left=None if cap is None else cap - session.ledger.spent().money,
        open_completer=session.options.open_completer,
    )


def _not_approved(name: str, review: Review) -> GateFailed:
    said = f"the reviewer did not approve: {'; '.join(review.reasons)}" if review.success else review.problem
    hint = f"change what it names and --rebuild {name}" if review.success else "set the reviewer up and run again"
    return GateFailed(said, place=f"{name}: review", hint=f"{hint}, or --force {name} (recorded downstream)")


def _go_past(session: Session, spec: StageSpec, bypass: str) -> None:
    """Written into the manifest, whose readers inherit it; sealed first, as every manifest is."""
    manifest = session.opened[spec.name].manifest
    changed = manifest.model_copy(update={"bypasses": [*manifest.bypasses, bypass]})
    session.ledger.append(
        Entry(event="sealed", stage=spec.name, fingerprint=changed.fingerprint, seal=seal_of(changed))
    )
    write_manifest(session.folder / spec.name, changed)
    session.opened[spec.name] = Opened(session.folder / spec.name, changed)
