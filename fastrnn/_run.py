"""One call of `fit`: the courses of its models, in step where they can be, progress, and the checkpoint file."""

import math
import os
from typing import Any

from . import io
from ._course import Course, NonFiniteError, Wish
from ._interrupts import Shield
from ._progress import Progress


class Run:
    """The courses of one model or of the members of an ensemble; `way` is how they get their updates.

    Everything that a member's course does is a function of that member alone. A member whose numbers are not finite
    ends there, with its error in `errors`; a model alone raises it.
    """

    def __init__(self, courses: list[Course], way, shield: Shield, checkpoint, *, alone: bool):
        self.courses, self.way, self.shield, self.checkpoint, self.alone = courses, way, shield, checkpoint, alone
        self.errors: dict[int, NonFiniteError] = {}
        self.going: dict[Course, Any] = {}  # those that have not ended, each a generator

    def go(self, show: bool | None) -> None:
        first, count = self.courses[0], len(self.courses)
        self.by_steps = math.isfinite(first.steps)
        if self.by_steps:
            totals, done = [course.steps for course in self.courses], [course.position.step for course in self.courses]
        else:
            totals = [course.epochs * (course.data.length or math.inf) for course in self.courses]
            done = [course.position.seen for course in self.courses]
        total = int(sum(totals)) if math.isfinite(sum(totals)) else None
        unit, label = "steps" if self.by_steps else "batches", "fit" if self.alone else f"fit {count} members"
        with self.shield.installed(), Progress(total, label, show=show, unit=unit, done=sum(done)) as self.progress:
            self.going = {course: course.go() for course in self.courses}
            try:
                # The first update compiles, for seconds; not where an interrupt would have to wait for it.
                self.way.warm_up(first)
                for course in self.courses:
                    course.capture()
                self._train()
            except KeyboardInterrupt:
                self._end("interrupted")
                self._write()
            except BaseException:
                self._end("error")
                raise

    def _end(self, stopped: str) -> None:
        for course in self.going:
            course.history.stopped = stopped

    def _train(self) -> None:
        """Let every course go on until it asks for something; what many ask for at a time is done for all at once."""
        wishes: dict[Course, Any] = {}
        answers: dict[Course, Any] = dict.fromkeys(self.courses)
        while True:
            for course, answer in answers.items():
                self._tell(course, answer, wishes)
            asking = {wish: [] for wish in Wish}
            for course, wish in wishes.items():
                if isinstance(wish, Wish):
                    asking[wish].append(course)
            if asking[Wish.VALIDATION]:
                answers = dict(zip(asking[Wish.VALIDATION], self.way.evaluate(asking[Wish.VALIDATION])))
            elif asking[Wish.CHECKPOINT]:
                self._write()
                answers = dict.fromkeys(asking[Wish.CHECKPOINT])
            elif wishes:
                answers = self._advance(list(wishes), list(wishes.values()))
            else:
                return

    def _tell(self, course: Course, answer, wishes: dict) -> None:
        """Answer a course; what it asks for then is in `wishes`."""
        wishes.pop(course, None)
        if course not in self.going:
            return
        try:
            wishes[course] = self.going[course].send(answer)
        except StopIteration:
            del self.going[course]
        except Exception as error:
            self._blame(course, error)
            raise

    def _advance(self, courses: list[Course], batches: list) -> dict[Course, bool]:
        """Make the updates that every course's batch asks for; whether each was completed."""
        completed = {}
        for places in self.way.groups(courses, batches):
            completed |= self._group([courses[k] for k in places], [batches[k] for k in places])
        return completed

    def _group(self, courses: list[Course], batches: list) -> dict[Course, bool]:
        running, work = list(range(len(courses))), None  # places of those that the next update is for
        incomplete = set()
        for work in self.way.passes(courses, batches):
            ended = [k for k in running if courses[k] not in self.going or courses[k].finished()]
            incomplete.update(ended)  # there is more of the batch than they go through
            running = [k for k in running if k not in incomplete]
            if not running:
                break
            self._step(courses, running, work)
        through = [k for k in running if k not in incomplete and courses[k] in self.going]
        with self.shield:
            for k in through:
                courses[k].completed(self.way.state(work, k) if work is not None and courses[k].carry_state else None)
        if not self.by_steps and through:
            self._show([courses[k] for k in through])
        return {course: k in through for k, course in enumerate(courses)}

    def _step(self, courses: list[Course], places: list[int], work) -> None:
        """One update of each course in `places`: all of it, or none."""
        sound = [k for k in places if math.isfinite(work.losses[k])]
        for k in places:
            if not math.isfinite(work.losses[k]):
                self._fail(courses[k], courses[k].non_finite("the loss", "loss"))
        if not sound:
            return
        with self.shield:
            results = self.way.update([courses[k] for k in sound], sound, work)
            for k, result in zip(sound, results):
                if isinstance(result, NonFiniteError):
                    self._fail(courses[k], result)
                else:
                    courses[k].updated(work.losses[k], work.weights[k], result)
        done = [courses[k] for k in sound if courses[k] in self.going]
        for course in done:
            if course.listeners:
                try:
                    course.tell_step()
                except Exception as error:
                    self._blame(course, error)
                    raise
        if self.by_steps and done:
            self._show(done)

    def _fail(self, course: Course, error: NonFiniteError) -> None:
        """A member ends here, and the others go on."""
        if self.alone:
            raise error
        course.history.stopped = "error"
        self.errors[course.member] = error
        self.going.pop(course).close()

    def _blame(self, course: Course, error: Exception) -> None:
        if not self.alone:
            error.add_note(f"fit: in the course of member {course.member}")

    def _show(self, courses: list[Course]) -> None:
        losses = [course.mean_loss() for course in courses]
        self.progress.advance(len(courses), epoch=courses[0].position.epoch + 1, loss=sum(losses) / len(losses))

    # Checkpoints

    def _write(self) -> None:
        """Put the state of every course at its last completed batch into the checkpoint file."""
        if not any(course.unsaved for course in self.courses) or any(course.boundary is None for course in self.courses):
            return
        trees = [course.tree() for course in self.courses]
        with self.shield:
            io.save_checkpoint(self.checkpoint, trees[0] if self.alone else {"members": trees})
            for course in self.courses:
                course.unsaved = False

    def restore(self) -> None:
        """Continue from what `_write` wrote."""
        tree = io.load_checkpoint(self.checkpoint)
        trees = [tree] if self.alone else tree.get("members") if isinstance(tree, dict) else None
        if not isinstance(trees, list) or len(trees) != len(self.courses):
            wanted = f"{os.fspath(self.checkpoint)!r}: a checkpoint of fit with {len(self.courses)} members is required"
            raise io.FileFormatError(f"{wanted}; got {len(trees) if isinstance(trees, list) else 'another'}")
        for restore in [course.restoring(own, self.checkpoint) for course, own in zip(self.courses, trees)]:
            restore()
