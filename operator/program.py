"""The commands: what they take, what they do, and what they print."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dead_letters
import deployment as deployments
import function
import inventory
import status
from ec2_decommission.errors import MalformedEvent
from ec2_decommission.events import parse
from problems import FAILED, REFUSED, Problem
from tables import pairs, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from deployment import Deployment

# As it was called: from a checkout, or from where `terraform init` has put the module.
PROGRAM = f"python3 {shlex.quote(sys.argv[0])}"
_SHORT_COMMAND = 20  # ids that a command to copy holds at most

DESCRIPTION = """\
Looks after a deployed ec2-decommission: shows what was and would be removed, decommissions an instance by hand,
runs the sweep, and brings dead letters back.

The deployment is found by Terraform's outputs in the current directory; see the options. In the root module put
  output "ec2_decommission" { value = module.ec2_decommission }
or name the function by --function-name."""

EPILOG = f"""\
examples:
  {PROGRAM} --chdir infra status
  {PROGRAM} show i-0123456789abcdef0
  {PROGRAM} decommission i-0123456789abcdef0 --dry-run
  {PROGRAM} sweep --dry-run --json
  {PROGRAM} dead-letters list
  {PROGRAM} dead-letters resend --all

exit status: 0 done; 1 something failed: a step, the sweep, the function; 2 usage, credentials, rights, or no such
deployment. The rights that an operator needs are in docs/operator.md."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: see ``EPILOG``."""
    signal.signal(signal.SIGTERM, _interrupted)  # as Ctrl-C: what was taken from a queue is given back
    options = _parser().parse_args(arguments)
    try:
        found = deployments.find(
            function_name=options.function_name,
            outputs_file=options.outputs,
            directory=options.chdir,
            module=options.module,
            region=options.region,
            profile=options.profile,
        )
        code: int = options.run(found, options)
        sys.stdout.flush()
    except Problem as problem:
        print(f"Error: {problem}", file=sys.stderr)
        return problem.status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has had enough
        sys.stderr.close()
        return 0
    return code


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- usage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _common(parser)
    parser.set_defaults(
        outputs=None, chdir=None, function_name=None, module=None, region=None, profile=None, json=False
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    show = _command(commands, "show", _show, "what was removed of an instance, and what would be removed now")
    show.add_argument("instance_id", type=_instance_id, metavar="i-...")

    decommission = _command(
        commands,
        "decommission",
        _decommission,
        "removes what a terminated instance left, now",
        "Shows what would be removed and asks before it does. Of an instance that lives nothing is removed.",
    )
    decommission.add_argument("instance_id", type=_instance_id, metavar="i-...")
    decommission.add_argument("--dry-run", action="store_true", help="show what would be removed, remove nothing")
    decommission.add_argument("--yes", action="store_true", help="do not ask")
    decommission.add_argument(
        "--override-dry-run", action="store_true", help="remove even where the module is set to dry_run = true"
    )

    sweep = _command(
        commands,
        "sweep",
        _sweep,
        "searches for terminations whose event never came",
        "What it finds takes the same way as an event: through the queue. Above its brake (sweep.max_instances,\n"
        "sweep.max_fraction) it removes nothing until the instances are accepted.",
    )
    sweep.add_argument("--dry-run", action="store_true", help="list what is gone, remove nothing")
    accept = sweep.add_mutually_exclusive_group()
    accept.add_argument(
        "--accept", nargs="+", type=_instance_id, default=[], metavar="i-...", help="these are really gone"
    )
    accept.add_argument("--accept-file", metavar="FILE", help="the same, one id a line; - is standard input")
    accept.add_argument(
        "--accept-listed", action="store_true", help="list what is gone, and ask whether all of it is"
    )
    sweep.add_argument("--yes", action="store_true", help="with --accept-listed: do not ask")

    letters = commands.add_parser("dead-letters", help="lists the dead letters, sends them back, deletes them")
    acts = letters.add_subparsers(metavar="list|resend|discard", required=True)
    _command(
        acts,
        "list",
        _list_letters,
        "the events that could not be finished or delivered, and why",
        "SQS shows messages only to those who take them: for the time of the list, seconds, nobody else sees them.\n"
        "Each look counts as a receive; dead letters do not mind.",
    )
    resend = _command(
        acts,
        "resend",
        _resend,
        "sends dead letters to the queue, to be tried anew",
        "Each is sent, then deleted here. Should the command be stopped in between, a letter is in both; the second\n"
        "event then finds nothing to do.",
    )
    discard = _command(acts, "discard", _discard, "deletes dead letters for good")
    for command, every in ((resend, "all that the function can read"), (discard, "all that there are")):
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="ID", help="message ids, or their beginnings")
        which.add_argument("--all", action="store_true", help=every)
    discard.add_argument("--yes", action="store_true", help="do not ask")

    _command(
        commands, "status", _status, "queue, dead letters, alarms, last sweep, and what is switched on, on one page"
    )
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, more: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n{more}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(command)
    command.set_defaults(run=run)
    return command


def _common(parser: argparse.ArgumentParser) -> None:
    """Before the command or after it. Without defaults, or the later parser would undo the earlier one's."""
    where = parser.add_argument_group("the deployment")
    silent = argparse.SUPPRESS
    where.add_argument(
        "--chdir",
        metavar="DIR",
        default=silent,
        help="root module whose `terraform output -json` is read (default: .)",
    )
    where.add_argument(
        "--outputs",
        metavar="FILE",
        default=silent,
        help="file written by `terraform output -json`; - is standard input",
    )
    where.add_argument("--module", metavar="OUTPUT", default=silent, help="which one, where the outputs hold several")
    where.add_argument("--function-name", metavar="NAME", default=silent, help="without Terraform: the function")
    where.add_argument("--region", default=silent, help="default: as the outputs say, else as AWS is configured")
    where.add_argument("--profile", default=silent, help="profile of the AWS configuration")
    parser.add_argument("--json", action="store_true", default=silent, help="one JSON document instead of tables")


def _instance_id(text: str) -> str:
    try:
        instance_id: str = parse({"instance_id": text}).instance_id
    except MalformedEvent as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return instance_id


def _target(options: argparse.Namespace) -> list[str]:
    """The options that name the deployment, to repeat them in a command to copy."""
    names = ("chdir", "outputs", "module", "function_name", "region", "profile")
    given = [(f"--{name.replace('_', '-')}", getattr(options, name)) for name in names]
    return [part for flag, value in given if value is not None for part in (flag, str(value))]


def _line(options: argparse.Namespace, *arguments: str) -> str:
    return f"{PROGRAM} {shlex.join([*_target(options), *arguments])}"


def _can_ask(options: argparse.Namespace) -> None:
    if not options.yes and not sys.stdin.isatty():
        raise Problem("Nobody is there to be asked (standard input is no terminal): give --yes. Nothing was done.")


def _confirmed(question: str, options: argparse.Namespace) -> bool:
    if options.yes:
        return True
    _can_ask(options)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=str))


# ---------------------------------------------------------------- one instance


def _show(found: Deployment, options: argparse.Namespace) -> int:
    instance_id = options.instance_id
    record = inventory.records(found, [instance_id]).get(instance_id)
    report, problem = None, None
    try:
        report = function.ask(found, {"instance_id": instance_id, "dry_run": True})
    except Problem as error:  # what was removed can be told all the same
        problem = error
    if options.json:
        document = {"instance_id": instance_id, "record": record, "dry_run": report}
        _print_json({**document, **({"error": str(problem)} if problem else {})})
    else:
        _print_record(found, instance_id, record)
        if report is not None:
            print("\nWhat would be removed now (dry run)")
            _print_report(report)
    if problem is not None:
        raise problem
    return FAILED if report is None or function.failed(report) else 0


def _print_record(found: Deployment, instance_id: str, record: Mapping[str, Any] | None) -> None:
    if record is None:
        table_name = found.inventory_table_name
        print(
            f"{instance_id}: the inventory {table_name} does not know it." if table_name else "The inventory is off."
        )
        return
    facts = record.get("facts", {})
    print(f"{instance_id}: {record.get('state', 'unknown')}, as recorded in {found.inventory_table_name}")
    print(
        pairs(
            [
                ("recorded", record.get("recorded_at")),
                ("terminated", record.get("terminated_at")),
                ("launched", facts.get("launch_time")),
                ("account, region", ", ".join(filter(None, (facts.get("account_id"), facts.get("region"))))),
                ("VPC", facts.get("vpc_id")),
                (
                    "addresses",
                    ", ".join(
                        ip for kind in ("private_ips", "public_ips", "ipv6_addresses") for ip in facts.get(kind, [])
                    ),
                ),
                ("DNS names", ", ".join([*facts.get("private_dns_names", []), *facts.get("public_dns_names", [])])),
                ("tags", ", ".join(f"{key}={value}" for key, value in sorted(facts.get("tags", {}).items()))),
                *(
                    (f"{step}'s {kind}", ", ".join(names))
                    for step, kinds in sorted(facts.get("known_as", {}).items())
                    for kind, names in sorted(kinds.items())
                ),
            ]
        )
    )
    rows: list[tuple[object, ...]]
    steps = record.get("steps", {})
    if steps:
        print("\nSteps, as they ended last")
        rows = [
            (name, _status_of(step), _time(step.get("settled_at")) or "to be retried", step.get("reason") or "")
            for name, step in steps.items()
        ]
        print(table(("STEP", "STATUS", "SETTLED", "REASON"), rows))
    print("\nWhat was removed")
    removed = record.get("removed", [])
    rows = [
        (_time(r.get("at")), r.get("step"), r.get("action"), r.get("target"), r.get("proof") or "") for r in removed
    ]
    print(table(("AT", "STEP", "ACTION", "TARGET", "PROOF"), rows) if rows else "  nothing")


def _print_report(report: Mapping[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for step in report["steps"]:
        head = (step["step"], _status_of(step))
        for action in step["actions"]:
            rows.append((*head, action["action"], action["target"], action.get("proof") or ""))
            head = ("", "")
        if step.get("reason") or not step["actions"]:
            rows.append((*head, "", "", step.get("reason") or "nothing of this instance was there"))
    if rows:
        print(table(("STEP", "STATUS", "ACTION", "TARGET", "PROOF OR REASON"), rows))
    for line in (*report.get("errors", []), report.get("note")):
        if line:
            print(f"  {line}")
    if not rows and not report.get("errors") and not report.get("note"):
        print("  nothing: no step is switched on")


def _status_of(step: Mapping[str, Any]) -> str:
    """With the kind of error, where the step failed: transient, configuration, permission or permanent."""
    kind = step.get("error_kind")
    return f"{step.get('status')} ({kind})" if kind else str(step.get("status"))


def _decommission(found: Deployment, options: argparse.Namespace) -> int:
    instance_id = options.instance_id
    if not options.dry_run:
        _can_ask(options)
    if options.dry_run or not options.yes:
        report = function.ask(found, {"instance_id": instance_id, "dry_run": True})
        if options.dry_run:
            return _tell(report, options)
        wanted = any(step["actions"] for step in report["steps"])
        if not wanted:
            return _tell(report, options)
        if not options.json:
            print(f"{instance_id}: this would be removed")
            _print_report(report)
        if not _confirmed("Remove it?", options):
            raise Problem("Nothing was removed.")
    payload: dict[str, Any] = {"instance_id": instance_id}
    if options.override_dry_run:
        payload["dry_run"] = False
    report = function.ask(found, payload)
    code = _tell(report, options)
    if report["dry_run"]:
        raise Problem(
            "Nothing was removed: the module is set to dry_run = true. --override-dry-run removes all the same.",
            FAILED,
        )
    return code


def _tell(report: Mapping[str, Any], options: argparse.Namespace) -> int:
    if options.json:
        _print_json(report)
    else:
        print(
            f"{report['instance_id']}: {report['state']}"
            + (", dry run: nothing was removed" if report["dry_run"] else "")
        )
        _print_report(report)
    return FAILED if function.failed(report) else 0


# ---------------------------------------------------------------- sweep


def _sweep(found: Deployment, options: argparse.Namespace) -> int:
    accept: list[str] = options.accept or _ids_of(options.accept_file)
    if options.accept_listed:
        listed = function.ask(found, {"sweep": True, "dry_run": True})
        accept = _gone(listed)
        if not options.dry_run and accept:
            if not options.json:
                _print_sweep(found, listed)
            if not _confirmed(
                f"Are all these {len(accept)} really gone, and is what they left to be removed?", options
            ):
                raise Problem("Nothing was removed.")
    payload: dict[str, Any] = {"sweep": True}
    if accept:
        payload["accept"] = accept
    if options.dry_run:
        payload["dry_run"] = True
    report = function.ask(found, payload)
    if options.json:
        _print_json(report)
    else:
        _print_sweep(found, report)
    gone = _gone(report)
    if "sweep" not in report and not function.failed(report):
        raise Problem(f"No sweep was run: {report.get('note') or 'the function does not say why'}.")
    if _asks_to_accept(report, accept):
        more = ["--accept", *gone] if len(gone) <= _SHORT_COMMAND else ["--accept-listed"]
        count, went = len(gone) + _left_off(report), set(gone) & set(accept)
        why = (
            f"one sweep may remove {report['sweep']['allowed']}"
            if report["sweep"].get("living")
            else "EC2 shows nobody that lives, as it would from a wrong account or region too"
        )
        raise Problem(
            f"The brake: {count} are gone, and {why}. "
            + (f"Only the {len(went)} accepted ones go. " if went else "Nothing was removed. ")
            + f"If all of these are really gone, say so:\n  {_line(options, 'sweep', *more)}",
            FAILED,
        )
    if report["dry_run"] and not options.dry_run and gone:
        raise Problem("Nothing was removed: the module is set to dry_run = true.", FAILED)
    if function.failed(report):
        raise Problem(f"The sweep failed: {'; '.join(report.get('errors', []))}", FAILED)
    return 0


def _ids_of(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"--accept-file {path} cannot be read: {error}.") from None
    try:
        ids = [parse({"instance_id": line.strip()}).instance_id for line in lines.splitlines() if line.strip()]
    except MalformedEvent as error:
        raise Problem(f"--accept-file {path}: {error}.") from None
    if not ids:
        raise Problem(f"--accept-file {path} holds no instance id.")
    return ids


def _gone(report: Mapping[str, Any]) -> list[str]:
    """What the sweep would remove or has removed: recorded and gone, and what it adopts."""
    seen = report.get("sweep") or {}
    return list(dict.fromkeys([*seen.get("gone", []), *seen.get("adopted", [])]))


def _left_off(report: Mapping[str, Any]) -> int:
    """How many more are gone than the report lists."""
    more = (report.get("sweep") or {}).get("left_off", {})
    return int(more.get("gone", 0)) + int(more.get("adopted", 0))


def _asks_to_accept(report: Mapping[str, Any], accept: Sequence[str]) -> bool:
    """Whether an operator's word is what the sweep waits for: above the brake, and where nobody seems to live."""
    seen = report.get("sweep") or {}
    unconfirmed = len(set(_gone(report)) - set(accept)) + _left_off(report)
    # A sweep that goes on in another invocation has not come to the brake yet.
    if not report.get("errors") or seen.get("goes_on") or not unconfirmed:
        return False
    return unconfirmed > seen.get("allowed", 0) or not seen.get("living")


def _print_sweep(found: Deployment, report: Mapping[str, Any]) -> None:
    seen = report.get("sweep")
    if seen is not None:
        names = ("living", "recorded", "refreshed", "allowed")
        print(
            ", ".join(f"{seen[name]} {name}" for name in names if name in seen)
            + ("; dry run" if report["dry_run"] else "")
        )
        gone, adopted = _gone(report), set(seen.get("adopted", []))
        if gone:
            known = _known(found, gone)
            rows: list[tuple[object, ...]] = [
                (i, "adopted" if i in adopted else "recorded", *_words(known.get(i, {}).get("facts", {})))
                for i in gone
            ]
            print(f"\nGone: {len(gone)}")
            print(table(("INSTANCE", "FOUND BY", "NAME", "ADDRESS", "LAUNCHED"), rows))
            if _left_off(report):
                print(f"  and {_left_off(report)} more, which the report does not list")
        else:
            print("Nothing is gone that nobody told.")
        left = seen.get("not_adopted", [])
        if left:
            print(f"\nNot adopted: {len(left)}")
            rows = [(x.get("id") or "", x.get("source"), x.get("target"), x.get("reason")) for x in left]
            print(table(("INSTANCE", "SOURCE", "TARGET", "REASON"), rows))
        if seen.get("goes_on"):
            print(
                f"\nThe sweep goes on in other invocations, and what it finds is in the log {found.log_group_name}."
            )
        if seen.get("trouble"):
            print(f"\nNot all could be looked at: {seen['trouble']}")
    if report.get("note"):
        print(f"  {report['note']}")


def _known(found: Deployment, instance_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    try:
        return inventory.records(found, instance_ids)
    except Problem as problem:  # the list is of use without it
        print(f"Warning: {problem}", file=sys.stderr)
        return {}


def _words(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        facts.get("tags", {}).get("Name", ""),
        next(iter(facts.get("private_ips", [])), ""),
        _time(facts.get("launch_time")),
    )


# ---------------------------------------------------------------- dead letters


def _list_letters(found: Deployment, options: argparse.Namespace) -> int:
    with dead_letters.DeadLetters(found) as box:
        letters = list(box.letters)
    # Only now: the letters are free again while inventory and log are asked.
    letters = dead_letters.with_reasons(found, letters)
    if options.json:
        _print_json(
            {
                "queue": found.dead_letter_queue_url,
                "taken_by_others": box.elsewhere,
                "dead_letters": [letter.document(box.kept) for letter in letters],
            }
        )
        return 0
    if letters:
        rows = [
            (
                letter.id,
                f"{letter.event} {letter.instance_id}".strip(),
                _time(letter.sent.isoformat()),
                (letter.sent + box.kept).date(),
                letter.receive_count,
            )
            for letter in letters
        ]
        reasons = [letter.reason or "" for letter in letters]
        print(table(("ID", "EVENT", "SENT", "KEPT UNTIL", "RECEIVED"), rows, indent="", below=reasons))
        print(f"\n{len(letters)} dead letters. Send them back: {_line(options, 'dead-letters', 'resend', '--all')}")
    else:
        print("No dead letters.")
    if box.elsewhere:
        print(f"About {box.elsewhere} more are taken by somebody else just now; look again in a few minutes.")
    return 0


def _resend(found: Deployment, options: argparse.Namespace) -> int:
    with dead_letters.DeadLetters(found) as box:
        if options.all:
            wanted = [letter for letter in box.letters if letter.event != "unreadable"]
            left = len(box.letters) - len(wanted)
        else:
            wanted, left = dead_letters.chosen(box.letters, options.ids), 0
        code = _tell_fates(list(box.resend(wanted)), "sent", box.elsewhere, options)
    if left and not options.json:
        print(f"{left} that the function cannot read were left; `dead-letters discard` deletes them.")
    return code


def _discard(found: Deployment, options: argparse.Namespace) -> int:
    with dead_letters.DeadLetters(found) as box:
        wanted = list(box.letters) if options.all else dead_letters.chosen(box.letters, options.ids)
        if wanted and not _confirmed(f"Delete {len(wanted)} dead letters for good?", options):
            raise Problem("Nothing was deleted.")
        return _tell_fates(list(box.discard(wanted)), "deleted", box.elsewhere, options)


def _tell_fates(fates: Sequence[dead_letters.Fate], done: str, elsewhere: int, options: argparse.Namespace) -> int:
    good = sum(fate.done for fate in fates)
    if options.json:
        rows = [
            {"id": f.letter.id, "instance_id": f.letter.instance_id or None, "done": f.done, "told": f.told}
            for f in fates
        ]
        _print_json({done: good, "failed": len(fates) - good, "taken_by_others": elsewhere, "dead_letters": rows})
    else:
        if fates:
            named = [(f.letter.id, f"{f.letter.event} {f.letter.instance_id}".strip(), f.told) for f in fates]
            print(table(("ID", "EVENT", "BECAME"), named, indent=""))
        print(f"{good} {done}." if fates else f"Nothing to be {done}.")
        if elsewhere:
            print(f"About {elsewhere} more are taken by somebody else just now; look again in a few minutes.")
    return 0 if good == len(fates) else FAILED


# ---------------------------------------------------------------- status


def _status(found: Deployment, options: argparse.Namespace) -> int:
    document = status.read(found)
    if options.json:
        _print_json(document)
    else:
        _print_status(document)
    for line in document.get("unknown", []):
        print(f"Warning: {line}", file=sys.stderr)
    return REFUSED if document.get("unknown") else 0


def _print_status(document: Mapping[str, Any]) -> None:
    what, config, queue, dead = (document[name] for name in ("function", "config", "queue", "dead_letters"))
    rows: list[tuple[str, object]] = [
        ("function", f"{what['name']} in {what['region']}, {what['state'] or 'state unknown'}, {what['runtime']}"),
        ("switched on", ", ".join(config["steps"]) or "no step"),
        ("dry run", "yes: nothing is removed" if config["dry_run"] else "no"),
        ("inventory", "on" if config["inventory"] else "off"),
    ]
    if queue is not None:
        oldest = "" if queue["oldest_seconds"] is None else f", the oldest {queue['oldest_seconds']} s old"
        rows.append(("queue", f"{queue['waiting']} waiting, {queue['taken']} under way or put off{oldest}"))
    if dead is not None:
        rows.append(("dead letters", dead["waiting"] + dead["taken"]))
    alarms = document["alarms"]
    if alarms is not None:
        ringing = [alarm for alarm in alarms if alarm["state"] == "ALARM"]
        quiet = f"none of {len(alarms)} rings" if alarms else "none are made (alarms.enabled)"
        rows.append(("alarms", ", ".join(alarm["name"] for alarm in ringing) or quiet))
    rows.append(("last sweep", _last_sweep(config, document["sweep"])))
    print(pairs(rows, indent=""))
    for alarm in alarms or []:
        if alarm["state"] == "ALARM":
            print(f"\n{alarm['name']} rings since {_time(alarm['since'])}: {alarm['meaning']}")


def _last_sweep(config: Mapping[str, Any], sweep: Mapping[str, Any] | None) -> str:
    if not config["sweep"]:
        return "off"
    if sweep is None:
        return "unknown"
    if sweep["at"] is None:
        return "none in the log of the last days"
    told = f"{_time(sweep['at'])}: "
    if sweep.get("errors"):
        return f"{told}failed: {'; '.join(map(str, sweep['errors']))}"
    return f"{told}{sweep.get('living')} living, {len(sweep.get('gone', []))} gone"


def _time(text: Any) -> str:
    """An ISO time without fractions of seconds."""
    return str(text)[:19].replace("T", " ") if text else ""
