"""ZSKT: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching" (NeurIPS 2019)."""

import torch
from torch import Tensor

from ..optimise.adversarial import Outputs, ProxyMethod, ProxyStep, Step
from ..optimise.source import Run

__all__ = ["Method"]


class Method(ProxyMethod):
    """A generator that seeks images on which teacher and proxy student disagree, and a proxy that learns them.

    An iteration is one generator step up KL(T || S), then `student_steps` proxy steps down KL(T || S) + beta * the sum
    of attention distances (algorithm 1, equations 1 and 2): `proxy.loss: {kl: {temperature: 1}}` and
    `proxy.terms.attention`. The proxy is in training mode throughout, as published. Both optimisers follow a cosine to
    zero and clip their gradients at norm 5 (released code, not paper).

    KL is the mean over the batch, in nats. The released code averages it over the K classes too, and its beta of 250
    and its norm of 5 belong to that: the same balance here takes 250 K and 5 K, 2,500 and 50 for ten classes.

    With `fresh` each proxy step has images of its own, as in the modified ZSKT of Ferles et al. (2020), which gained
    1 to 3 points; else all steps of an iteration repeat the generator's batch, as published.
    """

    fresh: bool

    def start(self, run: Run, seed: int) -> Step:
        """Generator and proxy."""
        return _Step(self, run, seed)


class _Step(ProxyStep):
    def __init__(self, method: Method, run: Run, seed: int) -> None:
        super().__init__(method, run, seed)
        self.method = method
        # A term that has the teacher label other images leaves its blocks with what they put out for those.
        self._ask_again = any(term.asks_teacher and not term.looks_inside for term in method.proxy.terms.given.values())

    def __call__(self, number: int) -> Outputs:
        method, proxy = self.method, self.proxy
        latents = self.latents(number, 1 + method.student_steps * method.fresh)
        with self.compute.autocast():
            raw, images = self.images(latents[0])
            teacher, student = self.teacher(images), proxy.net(images)
            generator_loss = -method.proxy.loss(student, teacher)
        self.generator.step(generator_loss, number)

        seen, label, losses = images.detach(), teacher.detach(), list[Tensor]()
        for turn in range(method.student_steps):
            index = number * method.student_steps + turn
            with self.compute.autocast():
                if method.fresh:
                    seen, label = self.labelled(latents[1 + turn])
                elif self._ask_again and turn:
                    proxy.ask(seen)
                loss = proxy.loss_on(seen, label, index)
            proxy.learner.step(loss, index)
            losses.append(loss.detach())
        scores = {"generator_loss": generator_loss, "proxy_loss": torch.stack(losses).mean()}
        return Outputs(scores, raw, teacher, student)
