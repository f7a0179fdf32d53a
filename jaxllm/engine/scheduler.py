"""Decides what each step computes, and takes in what it drew."""

from __future__ import annotations

from time import monotonic

from jaxllm.engine.messages import make_beam_row, make_scheduled_request, make_slot_start
from jaxllm.engine.metrics import EngineCounters
from jaxllm.engine.output import EngineOutput
from jaxllm.engine.page_tables import PageTables
from jaxllm.engine.plan import Plan, PlannedStep
from jaxllm.engine.request import FinishReason, Request, RequestStatus
from jaxllm.engine.running_requests import RunningRequests
from jaxllm.engine.swap_space import SwapSpace
from jaxllm.engine.waiting_queue import WaitingQueue
from jaxllm.steps import BeamSelection, ScheduledRequest, StepResult, TokenLogprobs


class Scheduler:
    """Hands out the token budget of each step: running requests first, then waiting ones, both in `Request.order`.

    There are no phases: a step gives each request some of its pending tokens, be it one decode token or a chunk
    of prompt. `schedule` may be called again before the last step was read; a request then counts on with tokens
    that only the device knows.

    A beam search counts as one request with several slots. Its live beams are in a step all or none, and it sits out
    steps until the host has read which beams live on. So that all searches go on in the same steps, none does before
    that is known of every search. As a victim of preemption a search loses all its beams, and later starts again from
    its prompt.
    """

    def __init__(
        self,
        *,
        page_tables: PageTables,
        swap_space: SwapSpace,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_chunk_size: int,
        counters: EngineCounters,
    ) -> None:
        self.waiting = WaitingQueue()
        self.running = RunningRequests(
            page_tables=page_tables,
            swap_space=swap_space,
            waiting=self.waiting,
            max_num_seqs=max_num_seqs,
            counters=counters,
        )
        self.page_tables = page_tables
        self.swap_space = swap_space
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_chunk_size = max_chunk_size
        self._counters = counters
        self._num_unread_choices = 0  # steps in flight that choose beams

    def add(self, request: Request) -> None:
        """Puts a new request into the queue."""
        self.waiting.push(request)

    def schedule(self) -> PlannedStep | None:
        """The next step, or None when nothing can be computed before more results are read."""
        plan = Plan(budget=self._max_num_batched_tokens)
        has_preempted = self._schedule_decodes(plan)
        self._schedule_chunks(plan)
        if not has_preempted and len(self.waiting) > 0:
            self._admit_waiting(plan)
        return self._finish_plan(plan)

    def update(self, planned: PlannedStep, result: StepResult) -> list[EngineOutput]:
        """Takes in the result of the oldest step not yet read, and says what is new."""
        assert result.step_id == planned.step.step_id, f"expected step {planned.step.step_id}, got {result.step_id}"
        outputs: list[EngineOutput] = []
        self._num_unread_choices -= planned.step.num_beam_places > 0
        previous: Request | None = None
        for scheduled, request in zip(planned.step.requests, planned.requests, strict=True):
            if request is previous:  # another beam of the same search
                continue
            previous = request
            request.num_unread -= scheduled.samples
            # A request that ended meanwhile (EOS, abort) has a surplus token in flight: nobody wants it.
            if request.status is RequestStatus.FINISHED:
                continue
            if scheduled.beam_score is None:
                output = self._update_request(scheduled, request, result)
            else:
                output = self._update_search(request, result.beams[request.request_id])
            if output is not None:
                outputs.append(output)
                self._counters.num_generation_tokens += len(output.new_token_ids)
        return outputs

    def finish(self, request: Request, reason: FinishReason, stop_reason: int | None = None) -> None:
        """Ends a request and takes its pages and slot back at once.

        A step in flight may still write the request's last page. That is safe: whoever gets the page writes it in a
        later step.
        """
        was_running = request.status is RequestStatus.RUNNING
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason
        request.stop_reason = stop_reason
        if was_running:
            self.running.end(request)
        else:
            self.waiting.discard(request)
            self.swap_space.drop(request)
        self._counters.finished[reason] += 1

    def _schedule_decodes(self, plan: Plan) -> bool:
        """Schedules running requests with one pending token; True when others lost their pages for it.

        They come before chunks, so a long prompt never delays them. A victim is the last running request, which
        this loop has not reached yet: it is never part of the step already.
        """
        page_size = self.page_tables.page_size
        num_preemptions = self._counters.num_preemptions
        for request in self.running:
            if plan.budget == 0:
                break
            if not request.can_decode:
                if request.can_search and not self._num_unread_choices and not self._schedule_beams(plan, request):
                    break
                continue
            if request.num_computed_tokens == len(request.page_ids) * page_size and not self.running.extend(request):
                break
            self._schedule(plan, request, 1)
        return self._counters.num_preemptions > num_preemptions

    def _schedule_beams(self, plan: Plan, request: Request) -> bool:
        """Schedules all beams of a search if the budget is large enough; False when the search lost its pages."""
        search = request.search
        assert search is not None, f"request {request.request_id} is no beam search"
        if len(search.beams) > plan.budget:
            return True
        page_copies = self.running.unshare(request)
        if page_copies is None:
            return False
        plan.decodes += [(make_beam_row(request, beam), request) for beam in search.beams]
        plan.budget -= len(search.beams)
        plan.num_beam_places += search.settings.width
        plan.page_copies += page_copies
        request.num_unread = 1
        return True

    def _schedule_chunks(self, plan: Plan) -> None:
        for request in self.running:
            if plan.budget == 0:
                break
            if request.num_pending_tokens > 1:
                self._schedule(plan, request, self._chunk_size(plan, request))

    def _admit_waiting(self, plan: Plan) -> None:
        """Admits waiting requests in order until budget, slots or pages are used up.

        A request whose next page is being computed by this very step is passed over: in the next step it finds that
        page in the cache. So n sequences of one prompt compute it once.
        """
        passed_over: list[Request] = []
        num_passed_over = 0
        while plan.budget > 0:
            request = self.waiting.peek()
            if request is None or len(self.running.slots.free) < num_passed_over + request.num_slots:
                break
            cached_page_ids = self.page_tables.find_cached(request)
            if request.num_unread > 0 or self._is_next_page_in(plan, request, len(cached_page_ids)):
                passed_over.append(self.waiting.pop())
                num_passed_over += request.num_slots
                continue
            if not self.page_tables.take(request, cached_page_ids, num_spare_pages=self._num_spare_pages(request)):
                break
            self.waiting.pop()
            plan.page_loads += self.swap_space.load(request)
            self._start(plan, request)
            self._schedule(plan, request, self._chunk_size(plan, request))
        for request in passed_over:
            self.waiting.push(request)

    def _num_spare_pages(self, request: Request) -> int:
        """Pages to leave free when the request is admitted.

        It is one for each row that runs, which will need it within page_size steps, and one for each further row that
        the request will have itself. Without that, requests are admitted only to be preempted at once: three times as
        much was recomputed in a full pool.
        """
        num_rows = self.running.slots.num_taken
        return num_rows + request.num_slots - 1 if num_rows else 0

    def _is_next_page_in(self, plan: Plan, request: Request, num_cached_pages: int) -> bool:
        num_usable_pages = (request.num_tokens - 1) // self.page_tables.page_size
        if not plan.page_hashes or not request.reads_prefix_cache or num_cached_pages >= num_usable_pages:
            return False
        return self.page_tables.hashes(request, num_usable_pages)[num_cached_pages] in plan.page_hashes

    def _start(self, plan: Plan, request: Request) -> None:
        """Lets a request run that has its pages."""
        if request.status is RequestStatus.WAITING:
            self._count_admission(request)
        self.running.start(request)
        plan.starts.append(make_slot_start(request))

    def _count_admission(self, request: Request) -> None:
        request.num_cached_tokens = request.num_computed_tokens
        request.admission_time = monotonic()
        self._counters.num_prompt_tokens += request.num_prompt_tokens
        if self.page_tables.prefix_cache is not None and request.reads_prefix_cache:
            self._counters.prefix_cache_queries += request.num_prompt_tokens
            self._counters.prefix_cache_hits += request.num_cached_tokens

    def _chunk_size(self, plan: Plan, request: Request) -> int:
        return min(request.num_pending_tokens, plan.budget, self._max_chunk_size)

    def _schedule(self, plan: Plan, request: Request, num_tokens: int) -> None:
        scheduled = make_scheduled_request(request, num_tokens)
        (plan.decodes if num_tokens == 1 else plan.chunks).append((scheduled, request))
        plan.budget -= num_tokens
        start = request.num_computed_tokens
        request.num_computed_tokens += num_tokens
        request.num_unread += scheduled.samples
        if scheduled.samples and request.search is not None:
            plan.num_beam_places += request.num_slots
        if scheduled.prompt_logprob_targets is not None:
            request.num_prompt_logprobs = min(request.num_computed_tokens, request.num_prompt_tokens - 1)
        if num_tokens > 1 and self.page_tables.prefix_cache is not None:
            page_size = self.page_tables.page_size
            num_full = request.num_computed_tokens // page_size
            plan.page_hashes.update(self.page_tables.hashes(request, num_full)[start // page_size : num_full])

    def _finish_plan(self, plan: Plan) -> PlannedStep | None:
        if plan.is_empty:
            return None
        num_tokens = self._max_num_batched_tokens - plan.budget
        planned = plan.finish(self._counters.num_steps, num_tokens, self.swap_space.take_saves())
        # Only now, because within one step a request can't read what another one writes.
        for scheduled, request in zip(planned.step.requests, planned.requests, strict=True):
            if scheduled.token_ids is not None:
                self.page_tables.register(request)
        self._num_unread_choices += plan.num_beam_places > 0
        self._counters.num_steps += 1
        self._counters.num_scheduled_tokens += planned.num_tokens
        return planned

    def _update_request(self, scheduled: ScheduledRequest, request: Request, result: StepResult) -> EngineOutput | None:
        request_id = request.request_id
        token_ids: tuple[int, ...] = ()
        logprobs: tuple[TokenLogprobs, ...] = ()
        prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        if scheduled.prompt_logprob_targets is not None:
            prompt_logprobs = tuple(result.prompt_logprobs[request_id])
        if scheduled.samples:
            token_ids = (result.token_ids[request_id],)
            logprobs = (result.logprobs[request_id],) if request.wants_logprobs else ()
            self._append_token(request, token_ids[0])
        elif not prompt_logprobs:
            return None
        return EngineOutput(
            request_id,
            token_ids,
            logprobs,
            prompt_logprobs,
            request.finish_reason,
            request.stop_reason,
            request.num_cached_tokens,
            request.admission_time,
            request.num_preemptions,
        )

    def _update_search(self, request: Request, selection: BeamSelection) -> EngineOutput | None:
        search = request.search
        assert search is not None, f"request {request.request_id} is no beam search"
        if request.status is not RequestStatus.RUNNING:
            return None  # preempted while the step ran: the search starts again
        self.page_tables.advance_search(request, selection)
        num_tokens = request.num_prompt_tokens + search.num_generated
        if not search.beams or num_tokens >= request.max_total_tokens:
            beams = search.results()
            self._counters.num_generation_tokens += sum(len(beam.token_ids) for beam in beams)
            self.finish(request, "length" if search.beams else "stop")
        elif search.num_generated == 1:
            beams = ()
        else:
            return None
        return EngineOutput(
            request.request_id,
            (),
            finish_reason=request.finish_reason,
            num_cached_tokens=request.num_cached_tokens,
            admission_time=request.admission_time,
            num_preemptions=request.num_preemptions,
            beams=beams,
        )

    def _append_token(self, request: Request, token_id: int) -> None:
        request.append_token(token_id)
        if request.num_tokens % self.page_tables.page_size == 0:
            self.page_tables.register(request)
        end = request.end_after(token_id)
        if end is not None:
            self.finish(request, *end)
