"""No token of a chat template reaches a base model, which has never seen one (Spec items 51 and 85).

Rendering through a published chat template, or data that hold template text, put them in. It knows the ids that the
loader took from the model's own template; a template written out in ordinary words is not recognised.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["TemplateIds"]


class TemplateIds(Check):
    """Looks for the tokenizer's template ids in every training example and every prompt."""

    guards = "chat-template ids in a base model's input"

    def run(self, subject: Subject) -> Outcome:
        """The first such id of each input."""
        inputs = [(f"training example {e.id}", e.rendered.token_ids) for e in subject.rendered]
        for name, prompt in subject.text.prompts.items():
            texts = [(e.id, prompt(e.instruction)) for e in subject.exchanges]
            inputs += [(f"{name} prompt of {i}", subject.text.prompt_ids(subject.tokenizer, t)) for i, t in texts]
        template, problems = subject.tokenizer.template_ids, []
        for place, ids in inputs:
            if found := [token for token in ids if token in template]:
                problems.append(f"{place}: holds {subject.tokenizer.decode(found[:1])!r} ({found[0]})")
        return verdict(problems, f"{len(inputs)} inputs hold none of {len(template)} template ids")
