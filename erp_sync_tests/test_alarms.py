"""Checks and alarms on a real instance: what runs red, what becomes an incident, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster_shared.error import SerializableErrorInfo

from erp_sync.definitions import build_definitions
from erp_sync.defs.checks import check_key
from erp_sync.defs.failures import Progress
from erp_sync.defs.names import CHECKS_JOB, ERP_ORDERS, INSPECTION_JOB, SHOP_STOCK_LEVELS
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.runs import partition_keys
from erp_sync.demo import environment
from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.ledger import Ledger
from erp_sync.models import ALARMS_ALIVE, Incident, LedgerState, Problem, Severity, Sighting
from erp_sync.settings import Settings
from erp_sync.sync.findings import INSPECTION_CHECKS, LEDGER_CHECKS
from erp_sync.sync.health import LedgerHealth
from erp_sync.sync.problems import ERP_ORDERS as MORE_THAN_ONCE
from erp_sync_tests.ledger_entries import due, found, step
from erp_sync_tests.live import CONFIG, Place, dagster_home, place, today
from erp_sync_tests.slack_double import CHANNEL, TOKEN, SlackDouble


@dataclass
class Here:
    erp_sync: ErpSync
    defs: dg.Definitions
    instance: dg.DagsterInstance
    cursor: str | None = None

    @property
    def ledger(self) -> Ledger:
        return self.erp_sync.connections().ledger

    def tick(self) -> dg.SensorResult:
        """One evaluation of the alarm sensor; its cursor is kept where it returns."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.defs.get_repository_def(),
            resources={"erp_sync": self.erp_sync},
        )
        result = self.defs.resolve_sensor_def("alarms")(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result

    def open(self) -> dict[str, Incident]:
        return {incident.cause: incident for incident in self.ledger.open_incidents()}

    def all(self) -> dict[str, Incident]:
        return {incident.cause: incident for incident in self.ledger.incidents(datetime(2020, 1, 1, tzinfo=UTC), 100)}

    def run(self, job: str) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(instance=self.instance, raise_on_error=False)

    def evaluation(self, name: str) -> Any:
        check = LEDGER_CHECKS.get(name) or INSPECTION_CHECKS[name]
        done = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
        storage = self.instance.event_log_storage
        records = storage.get_asset_check_execution_history(check_key(name, check), limit=1, status=done)
        return records[0].evaluation if records else None

    def order(self, order_id: str, **values: Any) -> None:
        """One that the ledger has had for two hours."""
        long_ago = self.ledger.now() - timedelta(hours=2)
        entry = due(order_id, long_ago, day=today())
        assert self.ledger.add(found(entry)) == [True]
        if values:
            self.turn_into(order_id, **values)

    def turn_into(self, order_id: str, **values: Any) -> None:
        entry = self.ledger.entries([order_id])[order_id]
        assert self.ledger.change([step(entry, **values)]) == [True]

    def tick_of(self, name: str, status: TickStatus, ago: float, kind: InstigatorType = InstigatorType.SENSOR) -> None:
        """As the daemon writes one down."""
        instance = self.instance
        known = [state for state in instance.all_instigator_state() if state.instigator_name == name]
        state = known[0] if known else instance.add_instigator_state(_state(name, kind))
        error = SerializableErrorInfo("ShopUnavailable: the shop is away\n", [], "ShopUnavailable")
        instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name=name,
                instigator_type=kind,
                status=status,
                timestamp=time.time() - ago,
                selector_id=state.selector_id,
                run_ids=[],
                error=error if status is TickStatus.FAILURE else None,
            )
        )


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests tick faster than the daemon."""
    monkeypatch.setattr("erp_sync.defs.alarms.PAUSE_SHARE", 0.0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """A ledger and Dagster; shop and ERP are named, and away."""
    config = tmp_path / "erp_sync.toml"
    config.write_text(CONFIG)
    variables = {
        "ERP_SYNC_CONFIG": str(config),
        "ERP_SYNC_SHOP_URL": f"sqlite:///{tmp_path / 'shop.sqlite'}",
        "ERP_SYNC_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
        "ERP_SYNC_ERP_URL": "http://127.0.0.1:9/rest",
        "ERP_SYNC_ERP_USER": "svc.loja",
        "ERP_SYNC_ERP_PASSWORD": "secret",
        "ERP_SYNC_ERP_TENANT": "01,0101",
        "DAGSTER_HOME": str(dagster_home(tmp_path)),
    }
    erp_sync = ErpSync()
    with environment(variables), dg.DagsterInstance.get() as instance:
        yield Here(erp_sync, build_definitions(erp_sync=erp_sync), instance)
        erp_sync.close()


@pytest.fixture
def at_work() -> Iterator[tuple[Here, Place]]:
    """With a shop and an ERP."""
    with place() as at:
        yield Here(at.erp_sync, at.defs, at.instance), at


def test_with_nothing_wrong_a_tick_says_so_and_gives_a_sign_of_life(here: Here) -> None:
    result = here.tick()
    assert result.skip_reason is not None
    assert "nothing is wrong" in str(result.skip_reason)
    mark = here.ledger.mark(ALARMS_ALIVE)
    assert mark is not None
    assert here.ledger.now() - mark[0] < timedelta(seconds=10)
    assert here.all() == {}


class TestChecks:
    def test_the_checks_state_the_whole_ledger_and_fail_no_run(self, here: Here) -> None:
        here.order("1")
        assert here.run(CHECKS_JOB).success
        waits = here.evaluation("nothing_waits")
        assert (waits.passed, waits.severity) == (False, dg.AssetCheckSeverity.ERROR)
        figures = {name: value.value for name, value in waits.metadata.items()}
        assert (figures["count"], figures["sample"]) == (1, "LJ-1")
        assert 119 <= figures["oldest_minutes"] <= 125
        assert "erp-sync orders" in figures["what_to_do"]
        assert all(here.evaluation(name).passed for name in LEDGER_CHECKS if name != "nothing_waits")
        here.turn_into("1", state=LedgerState.CANCELLED, next_at=None)
        assert here.run(CHECKS_JOB).success
        assert here.evaluation("nothing_waits").passed

    def test_the_inspection_hides_no_check_behind_one_that_cannot_look(self, at_work: tuple[Here, Place]) -> None:
        here, at = at_work
        at.on.shop.checkout()
        at.on.erp.kill()
        result = here.run(INSPECTION_JOB)
        assert not result.success
        [failure] = result.filter_events(lambda event: event.event_type_value == "STEP_FAILURE")
        assert "ERP_SYNC_ERP_URL" in str(failure.event_specific_data)
        assert here.evaluation("payments_have_a_condition").passed
        assert here.evaluation("erp_fields") is None
        at.on.erp.restart()
        at.erp_sync.connections().gate.succeeded()
        at.swept()
        assert here.run(INSPECTION_JOB).success
        assert all(here.evaluation(name).passed for name in INSPECTION_CHECKS)

    def test_a_flow_s_run_is_never_red_because_of_a_check(
        self, at_work: tuple[Here, Place], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever materializes an asset in the UI runs its checks as well."""
        here, at = at_work
        monkeypatch.setattr(LedgerHealth, "find", _raise)
        assert at.materialize(today()).success
        job = here.defs.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=here.instance, asset_selection=[ERP_ORDERS], partition_key=today().isoformat()
        )
        assert done.success
        assert not here.run(CHECKS_JOB).success

    def test_nobody_is_sent_to_look_into_an_erp_that_does_not_answer(self, here: Here) -> None:
        schedule = here.defs.resolve_schedule_def("inspection")
        now = datetime(2026, 11, 24, 12, 13, tzinfo=UTC)
        context = dg.build_schedule_context(
            here.instance, scheduled_execution_time=now, resources={"erp_sync": here.erp_sync}
        )
        assert isinstance(schedule(context), dg.RunRequest)
        gate = here.erp_sync.connections().gate
        for _ in range(20):
            gate.failed()
        assert isinstance(schedule(context), dg.SkipReason)

    def test_the_jobs_of_the_flows_hold_no_check(self, here: Here) -> None:
        for name in ("orders", "statuses", "stock"):
            nodes = {node.name for node in here.defs.resolve_job_def(name).nodes}
            assert not nodes & {"ledger_checks", "inspection_checks"}


class TestLedgerFindings:
    def test_an_incident_opens_without_any_check_having_run_and_ends_by_itself(self, here: Here) -> None:
        here.order("1")
        result = here.tick()
        incident = here.open()["check/erp/orders/nothing_waits"]
        assert (incident.severity, incident.count, incident.sample) == (Severity.ERROR, 1, ("LJ-1",))
        assert incident.kind == "check/nothing_waits"
        assert incident.oldest_at is not None
        [said] = result.asset_events
        assert isinstance(said, dg.AssetCheckEvaluation)
        assert (said.check_name, said.passed) == ("nothing_waits", False), "the UI says what the alert says"
        assert here.tick().asset_events == []
        here.turn_into("1", state=LedgerState.CANCELLED, next_at=None)
        [said] = here.tick().asset_events
        assert isinstance(said, dg.AssetCheckEvaluation)
        assert said.passed
        assert here.open() == {}

    def test_one_cause_stays_one_incident_and_is_brought_up_to_date(self, here: Here) -> None:
        here.order("1")
        here.tick()
        here.order("2")
        here.tick()
        [incident] = here.open().values()
        assert (incident.count, incident.openings) == (2, 1)
        here.tick()
        [again] = here.open().values()
        assert again.seen == incident.seen, "what stands as it stood is not written down every 15 seconds"

    def test_the_channel_hears_of_it_in_the_same_tick(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        with SlackDouble() as slack:
            account = (TOKEN, CHANNEL, slack.url)
            monkeypatch.setattr(Settings, "slack_account", lambda _settings: account)
            here.order("1")
            here.tick()
            [message] = slack.threads
            assert "LJ-1" in message.body
            here.turn_into("1", state=LedgerState.CANCELLED, next_at=None)
            here.tick()
            assert len(slack.replies(message)) == 1

    def test_a_question_that_takes_long_is_asked_more_rarely(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what it found stands until it is asked again."""
        monkeypatch.setattr("erp_sync.defs.alarms.PAUSE_SHARE", 1e9)
        here.order("1")
        here.tick()
        here.turn_into("1", state=LedgerState.CANCELLED, next_at=None)
        assert "nothing_waits" in str(here.tick().skip_reason)
        assert here.open().keys() == {"check/erp/orders/nothing_waits"}

    def test_what_it_is_about_has_its_own_words(self, here: Here) -> None:
        problem = Problem(MORE_THAN_ONCE, "A, B", "the ERP has this order more than once")
        here.order("1", state=LedgerState.SENT, erp_number="A", problems=(problem,), next_at=None)
        here.tick()
        assert here.open()["check/erp/orders/no_order_twice"].kind == "duplicate"


class TestRuns:
    def test_a_failed_run_is_told_with_its_cause_and_ended_by_a_success(self, at_work: tuple[Here, Place]) -> None:
        here, at = at_work
        at.on.shop.checkout()
        at.swept()
        at.on.shop.checkout()
        at.on.erp.kill()
        failed = at.materialize(today())
        assert not failed.success
        here.tick()
        incident = here.open()["run/orders"]
        assert (incident.kind, incident.severity, incident.run_id) == ("run_failed", Severity.ERROR, failed.run_id)
        assert incident.detail.startswith(f"{today()}: ")
        assert "ERP_SYNC_ERP_URL" in incident.detail
        here.tick()
        assert here.open()["run/orders"].seen == 1, "one failure is one sighting"
        at.on.erp.restart()
        gate = at.erp_sync.connections().gate
        gate.succeeded()
        assert at.materialize(today()).success
        here.tick()
        assert "run/orders" not in here.open()

    def test_a_failure_that_was_over_before_anybody_looked_is_told_all_the_same(self, here: Here) -> None:
        here.tick()
        _run(here, dg.DagsterRunStatus.FAILURE)
        _run(here, dg.DagsterRunStatus.SUCCESS)
        here.tick()
        assert here.open() == {}
        assert here.all()["run/statuses"].openings == 1
        here.tick()
        assert here.all()["run/statuses"].openings == 1

    def test_a_failure_before_the_first_tick_is_not_forgotten(self, here: Here) -> None:
        _run(here, dg.DagsterRunStatus.FAILURE)
        here.tick()
        assert "run/statuses" in here.open()

    def test_a_run_whose_end_is_stamped_ahead_hides_no_later_failure(self, here: Here) -> None:
        """By a machine whose clock is."""
        ahead = time.time() + 7200
        here.cursor = Progress(runs_until=ahead, runs={"1": ahead}, last={}, ticks={}).cursor()
        here.tick()
        _run(here, dg.DagsterRunStatus.FAILURE)
        here.tick()
        assert "run/statuses" in here.open()

    def test_another_code_location_s_partitions_blind_nobody(self) -> None:
        tags = {"dagster/asset_partition_range_start": "2026-11-01-03:00", "dagster/asset_partition_range_end": "b"}
        assert list(partition_keys(dg.DagsterRun("theirs", tags=tags))) == ["2026-11-01-03:00", "b"]

    def test_a_job_that_there_is_no_more_stays_red_for_a_day(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        here.tick()
        here.cursor = replace(Progress.of(here.cursor), last={"gone": (time.time() - 60, "1", True)}).cursor()
        here.ledger.report(Sighting("run/gone", "run_failed", Severity.ERROR))
        _run(here, dg.DagsterRunStatus.FAILURE)
        here.tick()
        assert here.open().keys() == {"run/gone", "run/statuses"}
        monkeypatch.setattr("erp_sync.defs.failures.LOOK_BACK", timedelta(0))
        here.tick()
        assert here.open().keys() == {"run/statuses"}

    def test_a_run_that_was_killed_is_told_as_such(self, here: Here) -> None:
        run = _started(here, today())
        here.instance.report_run_failed(run, "its process gave no sign of life for 60 s: it was killed")
        here.tick()
        incident = here.open()["run/orders"]
        assert incident.kind == "lost_run"
        assert "no sign of life" in incident.detail

    def test_days_are_named_and_are_one_cause(self, here: Here) -> None:
        for days in range(7):
            run = _started(here, today() - timedelta(days=days))
            here.instance.report_run_failed(run, "killed")
        here.tick()
        [cause] = here.open()
        assert cause == "run/orders"
        assert f"{today() - timedelta(days=6)}" in here.open()[cause].detail
        assert "2 more" in here.open()[cause].detail

    def test_an_incident_that_was_never_written_is_written_by_the_next_tick(self, here: Here) -> None:
        _run(here, dg.DagsterRunStatus.FAILURE)
        here.tick()
        here.ledger.resolve("run/statuses")
        here.tick()
        assert here.open()["run/statuses"].openings == 2

    def test_no_personal_data_of_an_exception_is_told(self, here: Here) -> None:
        run = _started(here, today())
        here.instance.report_run_failed(run, "Duplicate entry 'maria@example.com' CPF 529.982.247-25")
        here.tick()
        detail = here.open()["run/orders"].detail
        assert "maria@example.com" not in detail
        assert "529.982.247-25" not in detail


class TestOtherSources:
    def test_checks_that_a_failed_run_did_not_come_to_are_stated_anew(self, at_work: tuple[Here, Place]) -> None:
        """As of a day that somebody materializes in the UI while the ERP is away: its run holds the checks."""
        here, place = at_work
        here.tick()
        place.on.erp.kill()
        place.on.shop.checkout()
        job = here.defs.get_repository_def().get_job("__ASSET_JOB")
        failed = job.execute_in_process(
            instance=here.instance,
            raise_on_error=False,
            asset_selection=[ERP_ORDERS],
            partition_key=today().isoformat(),
        )
        assert not failed.success
        stated = here.tick().asset_events
        of_orders = {
            key.name for key in map(check_key, *zip(*LEDGER_CHECKS.items(), strict=True)) if key.asset_key == ERP_ORDERS
        }
        assert {each.check_name for each in stated if isinstance(each, dg.AssetCheckEvaluation)} == of_orders
        for each in stated:
            here.instance.report_runless_asset_event(each)
        assert here.tick().asset_events == []

    def test_a_check_is_told_by_its_latest_evaluation(self, here: Here) -> None:
        key = check_key("no_negative_stock", INSPECTION_CHECKS["no_negative_stock"])
        _evaluate(here, key, passed=False)
        here.tick()
        incident = here.open()["check/health/reconciliation/no_negative_stock"]
        assert (incident.severity, incident.count, incident.sample) == (Severity.WARNING, 2, ("A", "B"))
        assert incident.detail == "said so"
        _evaluate(here, key, passed=True)
        here.tick()
        assert here.open() == {}

    def test_a_check_that_there_is_no_more_leaves_no_incident_open(self, here: Here) -> None:
        from erp_sync.models import Sighting

        here.ledger.report(Sighting("check/erp/orders/of_yesterday", "check/of_yesterday", Severity.ERROR))
        here.tick()
        assert here.open() == {}

    def test_a_sensor_whose_tick_failed_is_told_until_the_latest_ones_succeed(self, here: Here) -> None:
        here.tick_of("finalized_orders", TickStatus.SUCCESS, ago=60)
        here.tick()
        assert here.open() == {}
        here.tick_of("finalized_orders", TickStatus.FAILURE, ago=50)
        here.tick()
        incident = here.open()["tick/finalized_orders"]
        assert (incident.severity, incident.detail) == (Severity.WARNING, "ShopUnavailable: the shop is away")
        for ago in (45, 40):
            here.tick_of("finalized_orders", TickStatus.FAILURE, ago)
        here.tick()
        assert here.open()["tick/finalized_orders"].severity is Severity.ERROR
        for ago in (35, 30, 25):
            assert here.open() != {}
            here.tick_of("finalized_orders", TickStatus.SKIPPED, ago)
            here.tick()
        assert here.open() == {}
        here.tick_of("finalized_orders", TickStatus.FAILURE, ago=20)
        for ago in (15, 10, 5):
            here.tick_of("finalized_orders", TickStatus.SUCCESS, ago)
        here.tick()
        assert here.open() == {}
        assert here.all()["tick/finalized_orders"].openings == 2, "failed and over, between two looks"

    def test_a_sensor_that_fails_every_second_time_is_one_incident(self, here: Here) -> None:
        for ago in range(60, 0, -10):
            here.tick_of("finalized_orders", TickStatus.FAILURE, ago)
            here.tick()
            here.tick_of("finalized_orders", TickStatus.SKIPPED, ago - 5)
            here.tick()
        assert here.open()["tick/finalized_orders"].openings == 1

    def test_a_schedule_that_failed_is_urgent(self, here: Here) -> None:
        """Its next tick may be tomorrow."""
        here.tick_of("yesterdays_orders", TickStatus.FAILURE, 20, InstigatorType.SCHEDULE)
        here.tick()
        assert here.open()["tick/yesterdays_orders"].severity is Severity.ERROR

    def test_an_asset_that_is_stale_is_told(self, here: Here) -> None:
        _freshness(here, FreshnessState.FAIL)
        here.tick()
        assert here.open()["stale/shop/stock_levels"].kind == "stale"
        _freshness(here, FreshnessState.PASS)
        here.tick()
        assert here.open() == {}


class TestWhenTheAlarmsThemselvesFail:
    def test_one_source_that_raises_silences_no_other_and_is_told(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.order("1")
        _run(here, dg.DagsterRunStatus.FAILURE)
        monkeypatch.setattr("erp_sync.defs.alarms.stale_assets", _raise)
        monkeypatch.setattr(LedgerHealth, "totals_agree", _raise)
        here.tick()
        assert here.open().keys() == {
            *("alarms/freshness", "alarms/totals_agree"),
            *("check/erp/orders/nothing_waits", "run/statuses"),
        }
        monkeypatch.undo()
        here.tick()
        assert here.open().keys() == {"check/erp/orders/nothing_waits", "run/statuses"}

    def test_a_look_at_the_runs_that_breaks_off_is_done_again(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its cursor has to stay where it was: the failure was over by then, and nothing else would tell it."""
        here.tick()
        _run(here, dg.DagsterRunStatus.FAILURE)
        _run(here, dg.DagsterRunStatus.SUCCESS)
        report = Ledger.report

        def broken(ledger: Ledger, sighting: Any) -> None:
            if sighting.cause.startswith("run/"):
                raise RuntimeError
            report(ledger, sighting)

        monkeypatch.setattr(Ledger, "report", broken)
        here.tick()
        assert here.open().keys() == {"alarms/runs"}
        monkeypatch.undo()
        here.tick()
        assert here.all()["run/statuses"].openings == 1

    def test_with_the_ledger_away_the_tick_fails_and_nothing_is_lost(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.tick()
        before = here.cursor
        _run(here, dg.DagsterRunStatus.FAILURE)
        _run(here, dg.DagsterRunStatus.SUCCESS)
        with monkeypatch.context() as away:
            away.setattr(Ledger, "report", _away)
            with pytest.raises(LedgerUnavailable):
                here.tick()
        assert here.cursor == before
        here.tick()
        assert here.all()["run/statuses"].openings == 1

    def test_with_the_ledger_away_the_channel_is_told_straight_and_once(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is sent then, and no incident can be written down."""
        with SlackDouble() as slack:
            account = (TOKEN, CHANNEL, slack.url)
            monkeypatch.setattr(Settings, "slack_account", lambda _settings: account)
            here.tick()
            with monkeypatch.context() as away:
                away.setattr(Ledger, "set_mark", _away)
                _fails(here)
                assert slack.messages == [], "a database that is started anew is back in a moment"
                away.setattr("erp_sync.defs.blind.PATIENCE_SECONDS", 0.0)
                slack.faults += ["500"]
                for _ in range(3):
                    _fails(here)
                [message] = slack.threads
                assert "ERP_SYNC_LEDGER_URL" in message.body
                assert slack.replies(message) == []
            here.tick()
            assert len(slack.replies(message)) == 1
            here.tick()
            assert len(slack.messages) == 2

    def test_without_a_channel_the_tick_says_why_and_goes_on(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def missing(_settings: Settings) -> None:
            raise Misconfigured("ERP_SYNC_SLACK_CHANNEL is not set")

        monkeypatch.setattr(Settings, "slack_account", missing)
        here.order("1")
        here.tick()
        assert here.open()
        assert here.cursor is not None
        assert "ERP_SYNC_SLACK_CHANNEL" in caplog.text

    def test_a_cursor_that_nobody_understands_means_a_look_back(self) -> None:
        for text in (None, "", "nonsense", "[]", '{"last": 1}', '{"runs_until": 1}'):
            assert Progress.of(text) == Progress()
        seen = Progress(3.0, {"a": 1.0}, {"orders": (2.0, "a", True)}, {"alarms": 1.0})
        assert Progress.of(seen.cursor()) == seen


def _fails(here: Here) -> None:
    with pytest.raises(LedgerUnavailable):
        here.tick()


def _raise(*_given: object) -> Any:
    raise RuntimeError("nobody expected this")


def _away(*_given: object) -> Any:
    raise LedgerUnavailable("the ledger is away")


def _started(here: Here, day: date) -> dg.DagsterRun:
    return here.instance.create_run_for_job(
        here.defs.resolve_job_def("orders"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": day.isoformat()},
    )


def _run(here: Here, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of the statuses flow that has ended so."""
    job = here.defs.resolve_job_def("statuses")
    run = here.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    if status is dg.DagsterRunStatus.FAILURE:
        here.instance.report_run_failed(run, "the ERP is away")
    else:
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name, message="done")
        here.instance.report_dagster_event(event, run.run_id)
    return run


def _evaluate(here: Here, key: dg.AssetCheckKey, *, passed: bool) -> None:
    here.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            key.asset_key,
            key.name,
            passed,
            severity=dg.AssetCheckSeverity.WARN,
            description="said so",
            metadata={} if passed else {"count": 2, "sample": "A, B"},
        )
    )


def _freshness(here: Here, state: FreshnessState) -> None:
    """As the daemon writes it down."""
    change = FreshnessStateChange(
        key=SHOP_STOCK_LEVELS,
        previous_state=FreshnessState.UNKNOWN,
        new_state=state,
        state_change_timestamp=time.time(),
    )
    here.instance.report_runless_asset_event(change)


def _state(name: str, kind: InstigatorType) -> InstigatorState:
    from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="erp_sync.definitions"))
    repository = RemoteRepositoryOrigin(location, "__repository__")
    data = ScheduleInstigatorData("30 2 * * *", time.time()) if kind is InstigatorType.SCHEDULE else None
    return InstigatorState(RemoteInstigatorOrigin(repository, name), kind, InstigatorStatus.DECLARED_IN_CODE, data)
