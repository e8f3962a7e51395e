"""The commands: their options, actions and output."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import history, page, plans, text
from .aws import FAILED, Problem, explained
from .deployment import find

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .deployment import Deployment

_LISTED = 20  # at most so many ids in a list or a suggested command
# The options that name the deployment, and their defaults.
_DEPLOYMENT = {
    "chdir": ".",
    "outputs": None,
    "module": None,
    "function_name": None,
    "function_region": None,
    "profile": None,
}
_DESCRIPTION = """\
Operates a deployed ec2-decommission. The command calls the function and
removes nothing itself. It finds the deployment in the Terraform outputs of the
current directory. Add this to the root module:
  output "ec2_decommission" { value = module.ec2_decommission }
or name the function with --function-name."""
_EPILOG = """\
Exit status: 0 done; 1 something failed (a step, the sweep, the function);
2 usage, credentials, permissions, or no such deployment. docs/operator.md
lists the permissions that an operator needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(find(options), options)
        sys.stdout.flush()
    except Problem as problem:
        print(text.paragraph(f"Error: {problem}", "  ", first=""), file=sys.stderr)
        return problem.status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        sys.stderr.close()
        return 0
    return code


# Usage


def program() -> str:
    """How this command was called, for hints."""
    if sys.argv[0].endswith((".py", "cli")) or Path(sys.argv[0]).is_dir():
        return f"python3 {shlex.quote(sys.argv[0].removesuffix('/__main__.py'))}"
    return Path(sys.argv[0]).name


def _parser() -> argparse.ArgumentParser:
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": _EPILOG}
    parser = argparse.ArgumentParser(prog=program(), description=_DESCRIPTION, **shape)
    _deployment_options(parser)
    parser.set_defaults(**_DEPLOYMENT, json=False)
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(
        name: str, run: Callable[[Deployment, argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        description = text.paragraph(f"{summary[0].upper()}{summary[1:]}. {more}")
        made: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description, **shape)
        made.set_defaults(run=run)
        _deployment_options(made)
        return made

    command("status", _status, "show which steps are on, and what is waiting")
    show = command("show", _show, "show what was removed for an instance, and what would be removed now")
    decommission = command(
        "decommission",
        _decommission,
        "remove what a terminated instance left behind",
        "Shows what would be removed, and asks. Removes nothing for a live instance.",
    )
    restore = command(
        "restore",
        _restore,
        "restore what was removed for an instance, from the audit",
        "Shows what would be created, and asks. Overwrites nothing.",
    )
    for one in (show, decommission, restore):
        one.add_argument("instance_id", type=_instance_id, metavar="i-...")
        _place_options(one, "of the instance; default: the function's own")
    sweep = command(
        "sweep",
        _sweep,
        "search for terminations whose event was lost",
        "Each instance found goes through the queue, as its event would have.",
    )
    _place_options(sweep, "to sweep; default: the function's own")
    sweep.add_argument(
        "--accept",
        nargs="+",
        type=_instance_id,
        default=[],
        metavar="i-...",
        help="confirm that these instances are gone",
    )
    sweep.add_argument("--accept-listed", action="store_true", help="list gone instances, ask, and accept them all")
    plan = command(
        "plan",
        _plan,
        "write the dry runs of many instances for review: plan --since 7d > plan.json",
        "Includes the instances that ended in the period, and those whose termination was missed.",
    )
    apply = command(
        "apply",
        _apply,
        "carry out a reviewed plan, and nothing else",
        "Removes only what is in the plan and still proven to be the instance's.",
    )
    apply.add_argument(
        "plan", metavar="plan.json", help="written by plan; you may delete actions; - is standard input"
    )
    report = command("report", _report, "show what was removed, restored, left and failed in a period")
    forms = report.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="CSV, one row per action, leftover or failure")
    forms.add_argument(
        "--html", action="store_true", help="one HTML page that needs no network: report --html > report.html"
    )
    for one in (plan, report):
        one.add_argument("--since", default="7d", help="7d, 12h, 2w, or a date such as 2026-03-01 (default: 7d)")
        _place_options(one, "whose instances are included; default: all")
    for one in (decommission, restore, sweep):
        one.add_argument("--dry-run", action="store_true", help="show what would be done, change nothing")
    for one in (decommission, restore, apply, sweep):
        one.add_argument("--yes", action="store_true", help="do not ask")
    for one in (decommission, apply):
        one.add_argument(
            "--override-dry-run", action="store_true", help="remove even if the module has dry_run = true"
        )
    return parser


def _deployment_options(parser: argparse.ArgumentParser) -> None:
    """Options for before and after the command. No defaults: those after it would overwrite values before it."""
    where = parser.add_argument_group("the deployment")

    def add(flag: str, meaning: str, metavar: str | None = None) -> None:
        where.add_argument(flag, help=meaning, metavar=metavar, default=argparse.SUPPRESS)

    add("--chdir", "root module whose outputs are read (default: .)", "DIR")
    add("--outputs", "written by `terraform output -json`; - is standard input", "FILE")
    add("--module", "which deployment, if the outputs have several", "OUTPUT")
    add("--function-name", "the function; needs no Terraform outputs", "NAME")
    add("--function-region", "default: from the outputs or the AWS configuration", "REGION")
    add("--profile", "profile of the AWS configuration")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="JSON on standard output")


def _place_options(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--account", metavar="ID", help=f"account {meaning}")
    parser.add_argument("--region", metavar="REGION", help=f"region {meaning}")


def _instance_id(value: str) -> str:
    if not re.fullmatch(r"i-[0-9a-f]{1,32}", value):
        raise argparse.ArgumentTypeError(f"expected i- and hexadecimal digits, found {value!r}")
    return value


def _place(options: argparse.Namespace) -> dict[str, str]:
    named = {"account_id": options.account, "region": options.region}
    return {key: value for key, value in named.items() if value}


def _line(options: argparse.Namespace, *arguments: str) -> str:
    """A command that the operator can copy, with the options that name the deployment."""
    names = (*_DEPLOYMENT, "account", "region")
    given = [(f"--{name.replace('_', '-')}", getattr(options, name, None)) for name in names]
    target = [part for flag, value in given if value not in (None, ".") for part in (flag, str(value))]
    return f"{program()} {shlex.join([*arguments, *target])}"


def _confirm(question: str, options: argparse.Namespace) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise Problem("Standard input is not a terminal, so nobody can confirm: give --yes. Nothing was changed.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Problem("Nothing was changed.")


def _print(options: argparse.Namespace, document: Any, words: str, *, file: Any = None) -> None:
    print(json.dumps(document, indent=2) if options.json else words, file=file or sys.stdout)


# One instance


def _show(found: Deployment, options: argparse.Namespace) -> int:
    record = found.record(options.instance_id)
    facts = (record or {}).get("facts", {})
    recorded = {key: facts[key] for key in ("account_id", "region") if facts.get(key)}
    where = _place(options) or recorded
    report, problem = None, None
    try:
        report = found.ask({"instance_id": options.instance_id, "dry_run": True, **where})
    except Problem as error:  # the record can still be shown
        problem = error
    state = (record or {}).get("state") or "not in the inventory"
    lines = [f"{options.instance_id} in {text.place(recorded or where)}: {state}"]
    lines += [text.record(record)] if record else []
    if report is not None:
        lines += ["\nWhat a removal would do now (dry run)", text.steps(report)]
    error_part = {"error": str(problem)} if problem else {}
    document = {"instance_id": options.instance_id, "record": record, "dry_run": report, **error_part}
    _print(options, document, "\n".join(lines))
    if problem is not None:
        raise problem
    return FAILED if report is None or text.failed(report) else 0


def _decommission(found: Deployment, options: argparse.Namespace) -> int:
    payload = {"instance_id": options.instance_id, **_place(options)}
    code = _shown_first(found, options, payload, "Remove this?")
    if code is not None:
        return code
    if options.override_dry_run:
        payload["dry_run"] = False
    report = found.ask(payload)
    _print(options, report, text.report(report))
    _refuse_dry_run(report)
    return FAILED if text.failed(report) else 0


def _restore(found: Deployment, options: argparse.Namespace) -> int:
    payload = {"restore": options.instance_id, **_place(options)}
    code = _shown_first(found, options, payload, "Create this?")
    if code is not None:
        return code
    report = found.ask({**payload, "dry_run": False})
    _print(options, report, text.report(report))
    return FAILED if text.failed(report) else 0


def _shown_first(
    found: Deployment, options: argparse.Namespace, payload: Mapping[str, Any], question: str
) -> int | None:
    """Shows the dry run and asks. Returns the exit status if there is nothing more to do, otherwise None."""
    if options.yes and not options.dry_run:
        return None
    report = found.ask({**payload, "dry_run": True})
    nothing = not any(step["actions"] for step in report["steps"])
    if options.dry_run or nothing:
        _print(options, report, text.report(report))
        return FAILED if text.failed(report) else 0
    # With --json, standard output gets only the final report, so the dry run goes to standard error.
    print(text.report(report), file=sys.stderr if options.json else sys.stdout, flush=True)
    _confirm(question, options)
    return None


def _refuse_dry_run(report: Mapping[str, Any]) -> None:
    if report["dry_run"]:
        raise Problem(
            "Nothing was removed: the module has dry_run = true. --override-dry-run removes anyway.", FAILED
        )


# Sweep


def _sweep(found: Deployment, options: argparse.Namespace) -> int:
    payload: dict[str, Any] = {"sweep": True, **_place(options)}
    accept: list[str] = options.accept
    if options.accept_listed:
        listed = found.ask({**payload, "dry_run": True})
        accept = _gone(listed)
        if accept and not options.dry_run:
            print(_sweep_text(found, listed), file=sys.stderr if options.json else sys.stdout, flush=True)
            _confirm(f"Are these {len(accept)} really gone? What they left behind will be removed.", options)
    report = found.ask(
        {**payload, **({"accept": accept} if accept else {}), **({"dry_run": True} if options.dry_run else {})}
    )
    _print(options, report, _sweep_text(found, report))
    seen = report.get("sweep")
    if seen is None and not text.failed(report):
        if report.get("note") and report["note"].startswith("one sweep was sent"):
            return 0
        raise Problem(f"No sweep ran: {report.get('note') or 'the function gives no reason'}.")
    gone = _gone(report)
    if set(gone) - set(accept) and text.failed(report):
        more = ["--accept", *gone] if len(gone) <= _LISTED else ["--accept-listed"]
        print(f"If all of these are really gone, confirm them:\n  {_line(options, 'sweep', *more)}", file=sys.stderr)
    if report["dry_run"] and not options.dry_run and gone:
        raise Problem("Nothing was removed: the module has dry_run = true.", FAILED)
    return FAILED if text.failed(report) or (seen or {}).get("not_accepted") else 0


def _gone(report: Mapping[str, Any]) -> list[str]:
    """The instances that count towards the brake: recorded ones that are gone, and unrecorded ones to adopt."""
    seen = report.get("sweep") or {}
    return list(dict.fromkeys([*seen.get("gone", ()), *seen.get("adopted", ())]))


def _sweep_text(found: Deployment, report: Mapping[str, Any]) -> str:
    seen = report.get("sweep")
    lines = [f"Sweep of {text.place(report)}{' (dry run, nothing was changed)' if report['dry_run'] else ''}"]
    if seen is not None:
        names = ("living", "recorded", "refreshed", "allowed", "excluded")
        lines.append("  " + ", ".join(f"{seen[name]} {name}" for name in names if name in seen))
        gone, adopted = _gone(report), set(seen.get("adopted", ()))
        lines.append(f"\nGone: {len(gone)}" if gone else "\nNo missed terminations found.")
        rows = []
        for instance_id in gone[:_LISTED]:
            facts = (_known(found, instance_id) or {}).get("facts", {})
            source = "adopted" if instance_id in adopted else "recorded"
            name, address = facts.get("tags", {}).get("Name", ""), next(iter(facts.get("private_ips", ())), "")
            rows.append((instance_id, source, name, address))
        if rows:
            lines.append(text.table(("INSTANCE", "FOUND", "NAME", "ADDRESS"), rows))
        lines += [f"  {instance_id}" for instance_id in gone[_LISTED:]]
        if seen.get("unfinished"):
            lines += [
                "\nRetried, because their decommissioning did not finish:",
                *(f"  {i}" for i in seen["unfinished"]),
            ]
        for one in seen.get("not_adopted", ()):
            lines.append(
                text.paragraph(
                    f"not adopted: {one.get('id')} {one.get('target')}: {one.get('reason')}", "    ", first="  "
                )
            )
        for instance_id, reason in seen.get("not_accepted", {}).items():
            lines.append(text.paragraph(f"{instance_id} is not removed: {reason}", "    ", first="  "))
        for name, number in seen.get("left_off", {}).items():
            lines.append(f"  and {number} more {name}, which the report does not list")
    lines += [
        text.paragraph(str(line), "    ", first="  ")
        for line in (*report.get("errors", ()), report.get("note"))
        if line
    ]
    return "\n".join(lines)


def _known(found: Deployment, instance_id: str) -> dict[str, Any] | None:
    try:
        return found.record(instance_id)
    except Problem:  # the list is useful without names
        return None


# Plan and apply


def _plan(found: Deployment, options: argparse.Namespace) -> int:
    start = history.since(options.since)
    plan = plans.make(found, start, options.account, options.region, lambda line: print(line, file=sys.stderr))
    print(json.dumps(plan, indent=2))
    number = sum(len(plans.approved(entry)) for entry in plan["instances"])
    summary = f"{text.count(number, 'action')} for {text.count(len(plan['instances']), 'instance')}."
    if number:
        apply = _line(options, "apply", "plan.json")
        summary += f" Review the plan, delete the actions that must not run, then run: {apply}"
    elif not plan["failed"]:
        summary = "There is nothing to remove."
    print(summary, file=sys.stderr)
    for report in plan["failed"]:
        print(f"{report['instance_id']}: not everything could be checked\n{text.steps(report)}", file=sys.stderr)
    return FAILED if plan["failed"] else 0


def _apply(found: Deployment, options: argparse.Namespace) -> int:
    instances = plans.read(options.plan, found)
    out = sys.stderr if options.json else sys.stdout
    for entry in instances:
        print(
            text.paragraph(f"{entry['instance_id']} ({entry.get('name') or 'no name'}) in {text.place(entry)}"),
            file=out,
        )
        print(text.actions(action for step in entry["steps"] for action in step.get("actions", ())), file=out)
    wanted = sum(len(plans.approved(entry)) for entry in instances)
    if not wanted:
        print("The plan has no actions: there is nothing to remove.", file=out)
        return 0
    _confirm(f"Carry out these {text.count(wanted, 'action')}?", options)
    reports: list[dict[str, Any]] = []
    done = 0
    for _, report in plans.apply(found, instances, override_dry_run=options.override_dry_run):
        reports.append(report)
        done += len(plans.approved(report)) if not report["dry_run"] else 0
        if not options.json:
            print(f"\n{text.report(report)}", flush=True)
        _refuse_dry_run(report)
    if options.json:
        print(json.dumps({"approved": wanted, "done": done, "reports": reports}, indent=2))
    else:
        print(f"\n{done} of {text.count(wanted, 'approved action')} carried out; nothing else was removed.")
    return FAILED if any(map(text.failed, reports)) else 0


# Report and status


def _report(found: Deployment, options: argparse.Namespace) -> int:
    document = history.read(found, history.since(options.since), options.account, options.region)
    if options.html:
        print(page.page(document), end="")
    elif options.csv:
        print(history.as_csv(document), end="")
    else:
        _print(options, document, _report_text(document))
    return 0


def _report_text(document: Mapping[str, Any]) -> str:
    instances = document["instances"]
    removed = sum(len(one["removed"]) for one in instances)
    since = text.time(document["since"])
    lines = [f"Since {since}: {text.count(len(instances), 'instance')}, {text.count(removed, 'removal')}"]
    for one in instances:
        named = f" ({one['name']})" if one["name"] else ""
        state = "" if one["finished"] else ", not finished"
        head = f"{one['instance_id']}{named} in {text.place(one)}, ended {text.time(one['ended'])}{state}"
        lines.append("\n" + text.paragraph(head, "  ", first=""))
        lines += [text.actions(one["removed"])] if one["removed"] else []
        lines += [f"  restored\n{text.actions(one['restored'])}"] if one["restored"] else []
        for step in one["steps"]:
            if step.get("reason"):
                lines.append(
                    text.paragraph(f"{step['step']}: {step['status']}: {step['reason']}", "      ", first="  ")
                )
        lines += [text.paragraph(one["excluded"], "  ")] if one["excluded"] else []
    return "\n".join(lines)


def _status(found: Deployment, options: argparse.Namespace) -> int:
    config, function = found.config, found.function
    steps = [name for name in ("route53", "chef", "consul") if config.get(name)]
    steps += sorted({**(config.get("http_steps") or {}), **(config.get("custom_steps") or {})})
    queue_url = str(config["queue"]["url"])
    with explained(f"list the event source mappings of {found.function_name} (lambda:ListEventSourceMappings)"):
        mappings = found.clients("lambda").list_event_source_mappings(FunctionName=found.function_name)
    mapping = next(iter(mappings["EventSourceMappings"]), {"State": "missing"})
    queue, redrive = _queue(found, queue_url)
    dead_arn = json.loads(redrive or "{}").get("deadLetterTargetArn", "")
    dead_url = f"{queue_url.rpartition('/')[0]}/{dead_arn.rpartition(':')[2]}"
    dead = sum(_queue(found, dead_url)[0]) if dead_arn else 0
    open_ends = []
    if found.table_name:
        ended = found.records("#state = :ended AND attribute_exists(sweep)")
        open_ends = sorted(record["instance_id"] for record in ended)
    document = {
        "function": found.function_name,
        "region": found.clients.region,
        "state": function.get("State"),
        "runtime": function.get("Runtime"),
        "dry_run": bool(config.get("dry_run")),
        "event_source_mapping": mapping["State"],
        "steps": steps,
        "inventory": found.table_name,
        "audit": config.get("audit"),
        "queue": {"waiting": queue[0], "in_flight_or_backing_off": queue[1]},
        "dead_letters": dead,
        "unfinished": open_ends,
    }
    rows = [
        (
            "function",
            f"{found.function_name} in {found.clients.region}, {function.get('State')}, {function.get('Runtime')}",
        ),
        ("removes", "nothing: dry_run = true" if config.get("dry_run") else "yes"),
        ("events", _events_text(mapping["State"])),
        ("steps", ", ".join(steps) or "no step is on"),
        ("inventory", found.table_name or "off"),
        ("audit", _audit_text(config.get("audit"))),
        ("queue", f"{queue[0]} waiting, {queue[1]} in flight or backing off"),
        ("dead letters", str(dead)),
        ("not finished", ", ".join(open_ends[:_LISTED]) or "none"),
    ]
    lines = [text.pairs(rows, "")]
    if dead:
        lines.append("\nFix the cause, then send the dead letters back:")
        lines.append(f"  aws sqs start-message-move-task --source-arn {dead_arn}")
    _print(options, document, "\n".join(lines))
    return 0


def _events_text(state: str) -> str:
    return "handled" if state == "Enabled" else f"not handled: the event source mapping is {state} (paused?)"


def _audit_text(audit: Mapping[str, Any] | None) -> str:
    return f"s3://{audit.get('bucket')}/{audit.get('prefix') or ''}" if audit else "off: nothing can be restored"


def _queue(found: Deployment, url: str) -> tuple[tuple[int, int], str | None]:
    with explained(f"read the attributes of {url} (sqs:GetQueueAttributes)"):
        answer = found.clients("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    waiting, taken = (int(answer.get(name, 0)) for name in names)
    return (waiting, taken), answer.get("RedrivePolicy")
