"""What a request of an HTTP step looks like: where values may stand, and how they are written there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ec2_decommission.errors import ConfigurationError
from ec2_decommission.instance import Instance
from ec2_decommission.steps.http.expression import Expression, ExpressionError, as_text, cut, is_true, one_line
from ec2_decommission.steps.http.template import (
    Allowed,
    Request,
    RequestTemplate,
    UnfitValueError,
    Values,
    parse,
    parse_body,
    variants,
)

IN_FIND, IN_REMOVE = Allowed(("token",)), Allowed(("token",), item=True)
NAMES = "{instance_id}, {private_ip}, {private_ip_dashed}, {private_dns_name}, {hostname}, {account_id}, {region}"
WEB = Instance(
    "i-1",
    account_id="111111111111",
    region="eu-west-1",
    private_ips=("10.0.0.5",),
    private_dns_names=("ip-10-0-0-5.ec2.internal",),
)


def rendered(value: str, **places: Any) -> Request:
    """A request with {tag:v} in one place, for an instance whose tag has that value."""
    template = RequestTemplate(
        "GET",
        "https://api.example.com/v1",
        parse(places.get("path", "/x"), IN_REMOVE),
        {k: parse(v, IN_REMOVE) for k, v in places.get("query", {}).items()},
        {k: parse(v, IN_REMOVE) for k, v in places.get("headers", {}).items()},
        parse_body(places["body"], IN_REMOVE) if "body" in places else None,
    )
    item = {"name": value, "n": 5}
    return template.render(Values(Instance("i-1", tags={"v": value}), {"token": "s3cret"}, item, value))


ODD = [
    ("web-1.example_~", "web-1.example_~"),
    ("a/b", "a%2Fb"),
    ("a b?c#d;e&f=g+h", "a%20b%3Fc%23d%3Be%26f%3Dg%2Bh"),
    ("%2e%2e", "%252e%252e"),
    ("a\\b\n", "a%5Cb%0A"),
    ("ä", "%C3%A4"),
    ("...", "..."),
    ("{secret:token}", "%7Bsecret%3Atoken%7D"),
    ("{tag:v}", "%7Btag%3Av%7D"),
    ("@evil.example.com", "%40evil.example.com"),
]


@pytest.mark.parametrize(("value", "quoted"), ODD)
@pytest.mark.parametrize("placeholder", ["{tag:v}", "{id}", "{item:name}"])
def test_a_value_in_a_path_is_one_quoted_segment(placeholder: str, value: str, quoted: str) -> None:
    assert rendered(value, path=f"/hosts/{placeholder}/x").url == f"https://api.example.com/v1/hosts/{quoted}/x"
    assert rendered(value, path=f"/h-{placeholder}.json?a={placeholder}").url.endswith(f"/h-{quoted}.json?a={quoted}")


@pytest.mark.parametrize("value", [".", "..", "../x", "x/..", "a/./b", "..\\x", "\ud800"])
@pytest.mark.parametrize("placeholder", ["{tag:v}", "{id}", "{item:name}"])
def test_unsafe_value_is_not_used_in_a_path(placeholder: str, value: str) -> None:
    with pytest.raises(UnfitValueError, match=r"cannot be one segment of a URL|not text that can be encoded"):
        rendered(value, path=f"/hosts/{placeholder}")


@pytest.mark.parametrize(("value", "quoted"), [*ODD, (".", "."), ("..", ".."), ("../x", "..%2Fx")])
def test_a_query_is_quoted_as_a_whole(value: str, quoted: str) -> None:
    url = rendered(value, query={"a[]": "x/{tag:v}&", "b": "="}).url
    assert url == f"https://api.example.com/v1/x?a%5B%5D=x%2F{quoted}%26&b=%3D"


def test_a_query_follows_the_one_in_the_path() -> None:
    assert rendered("1", path="/x?a=b", query={"c": "{id}"}).url == "https://api.example.com/v1/x?a=b&c=1"


@pytest.mark.parametrize(
    "value", ['"', '"}], "x": "', "\\", "\n", "ä", "\x00", "{secret:token}", "\ud800", "</script>"]
)
def test_a_value_in_a_body_stays_inside_its_string(value: str) -> None:
    body = rendered(value, body='{"a": "x{tag:v}y", "n": [1.50, "{id}", {"{item:n}": null}]}').body
    assert body is not None
    assert json.loads(body) == {"a": f"x{value}y", "n": [1.5, value, {"5": None}]}
    assert "1.50" in body


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\x00", "ä", "\x7f", "\t"])
def test_a_header_takes_printable_ascii_only(value: str) -> None:
    with pytest.raises(UnfitValueError, match=r"the value of \{tag:v\} is not printable ASCII, .*: "):
        rendered(value, headers={"X-A": "{tag:v}"})


def test_headers_and_secrets() -> None:
    request = rendered(
        "v", headers={"Authorization": "Bearer {secret:token}", "X": "{id}"}, query={"t": "{secret:token}"}
    )
    assert request.headers == (("Authorization", "Bearer s3cret"), ("X", "v"))
    assert request.url.endswith("?t=s3cret")
    assert "s3cret" not in repr(request)


def test_a_secret_is_never_in_the_error() -> None:
    text = parse("{secret:token}", IN_FIND)
    template = RequestTemplate("GET", "https://x", parse("/", IN_FIND), headers={"X": text})
    with pytest.raises(UnfitValueError) as error:
        template.render(Values(WEB, {"token": "sec\nret"}))
    assert str(error.value) == "the value of {secret:token} is not printable ASCII, as a header requires"


def test_a_tag_may_have_the_name_of_a_secret() -> None:
    text = parse("{tag:token} {tag:id} {secret:token}", IN_REMOVE)
    instance = Instance("i-1", tags={"token": "a", "id": "b"})
    assert text.render(Values(instance, {"token": "s3cret"}, {}, "7"), str) == "a b s3cret"


def test_every_name_placeholder() -> None:
    names = "{instance_id} {private_ip} {private_ip_dashed} {private_dns_name} {hostname} {account_id} {region}"
    text = parse(names, IN_FIND).render(Values(WEB, {}), str)
    assert text == "i-1 10.0.0.5 10-0-0-5 ip-10-0-0-5.ec2.internal ip-10-0-0-5 111111111111 eu-west-1"


@pytest.mark.parametrize(
    ("text", "allowed", "message"),
    [
        ("{x}", IN_FIND, "unknown placeholder {x}; allowed here are {instance_id}, "),
        ("{x}", IN_FIND, f"{NAMES}, {{tag:KEY}}, {{secret:NAME}} with one of token"),
        ("{tag:}", IN_FIND, "unknown placeholder {tag:}"),
        ("{}", IN_FIND, "unknown placeholder {}"),
        ("{secret:other}", IN_FIND, "unknown placeholder {secret:other}"),
        ("{secret:}", IN_FIND, "unknown placeholder {secret:}"),
        ("{id}", IN_FIND, "unknown placeholder {id}"),
        ("{item:name}", IN_FIND, "unknown placeholder {item:name}"),
        ("{item:}", IN_REMOVE, "unknown placeholder {item:}"),
        ("{item}", IN_REMOVE, f"allowed here are {NAMES}, {{tag:KEY}}, {{id}}, {{item:JMESPATH}}, {{secret:NAME}}"),
        ("{item:a[}", IN_REMOVE, "'a[' is not a JMESPath expression"),
        ("{instance_id}", Allowed(names=False), "allowed here are {secret:NAME} (the step has no secrets)"),
        ("a{b", IN_FIND, "unmatched brace"),
        ("a}b", IN_FIND, "unmatched brace"),
        ("{{instance_id}}", IN_FIND, "unmatched brace"),
        ("{instance_id {region}", IN_FIND, "unmatched brace"),
    ],
)
def test_a_template_that_is_refused(text: str, allowed: Allowed, message: str) -> None:
    for read, source in ((parse, text), (parse_body, json.dumps([text]))):
        with pytest.raises(ConfigurationError) as error:
            read(source, allowed)
        assert message in str(error.value)


@pytest.mark.parametrize(
    "body", ["", "{", "{instance_id}", '{"a": {id}}', "'a'", '{"a": "{id}"', "\ud800", "[" * 100_000]
)
def test_a_body_that_is_not_json(body: str) -> None:
    with pytest.raises(ConfigurationError, match="it is not JSON"):
        parse_body(body, IN_REMOVE)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("null", "null"),
        ('"{id}"', '"v"'),
        ("{}", "{}"),
        ('{"a":{"b":[{}]}}', '{"a":{"b":[{}]}}'),
        (r'{"q": "query \u007b hosts \u007d {id}"}', r'{"q": "query \u007b hosts \u007d v"}'),
        (r'["\"{id}\"", "\\{id}", "ä"]', r'["\"v\"", "\\v", "ä"]'),
        (r"""["{item:a[?\"b\"=='c'].d | [0]}"]""", '["found"]'),
        ("[1e5, 1.0, -0, true]", "[1e5, 1.0, -0, true]"),
    ],
)
def test_body_is_sent_unchanged(body: str, sent: str) -> None:
    values = Values(WEB, {}, {"a": [{"b": "c", "d": "found"}]}, "v")
    assert parse_body(body, IN_REMOVE).render(values, lambda v: v) == sent


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (5, "5"), ("5", "5"), (2**64, str(2**64)), (0, "0"), ("True", "True")]
)
def test_a_text_or_a_whole_number_can_be_sent(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", ["", None, True, False, 1.0, 1.5, 1e30, [], {}, ["a"]])
def test_nothing_else_can_be_sent(value: Any) -> None:
    assert as_text(value) is None


@pytest.mark.parametrize(("value", "true"), [(0, True), ("a", True), ([0], True), ({"a": 0}, True), (True, True)])
def test_what_counts_as_true(value: Any, true: bool) -> None:
    assert is_true(value) is true


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_what_counts_as_false(value: Any) -> None:
    assert not is_true(value)


@pytest.mark.parametrize("text", ["", " ", "a b", "a[", "foo(a)(", "'", "a" + ".b" * 5000 + "["])
def test_an_expression_that_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a JMESPath expression"):
        Expression(text)


@pytest.mark.parametrize("text", ["length(a)", "foo(a)", "sort_by(@, &a)", "abs('x')", "max_by(l, &a)", "sum(l)"])
def test_an_expression_that_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(ExpressionError, match="cannot be evaluated"):
        Expression(text).search({"a": 5, "l": ["x", {"a": []}, None]})


def test_a_value_in_a_message_is_on_one_line_and_short() -> None:
    assert one_line({"a": "ä\n"}) == '{"a": "\\u00e4\\n"}'
    assert one_line("a\n b\x00c") == "a b c"
    assert one_line("x" * 20_000) == "x" * 10_000
    assert cut("x" * 80, 80) == "x" * 80
    assert cut("x" * 81, 80) == "x" * 79 + "…"


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (Instance("i-1"), [{}]),
        (Instance("i-1", tags={"a": "1", "z": "9"}), [{"a": "1", "z": "9"}]),
        (Instance("i-1", tags={"a": "1"}, past_tags={"a": ("2",), "z": ("3",)}), [{"a": "1"}, {"a": "2"}]),
        (Instance("i-1", past_tags={"a": ("2",)}), [{"a": "2"}]),
        (Instance("i-1", tags={"a": ""}, past_tags={"a": ("2",)}), [{"a": "2"}]),
        (
            Instance("i-1", tags={"a": "1", "b": "x"}, past_tags={"a": ("2",), "b": ("y",)}),
            [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}],
        ),
    ],
)
def test_a_request_is_made_for_each_value_that_a_tag_had(instance: Instance, expected: list[dict[str, str]]) -> None:
    assert [dict(variant.tags) for variant in variants(instance, {"a", "b"})] == expected


def test_a_request_is_made_at_most_twenty_times() -> None:
    many = {key: tuple(map(str, range(10))) for key in "abc"}
    assert len(variants(Instance("i-1", past_tags=many), "abc")) == 20


def test_the_tags_and_the_missing_values_of_a_request() -> None:
    template = RequestTemplate(
        "GET",
        "https://x",
        parse("/{tag:a}/{id}", IN_REMOVE),
        {"q": parse("{tag:b}{private_ip}", IN_REMOVE)},
        {"h": parse("{tag:c}", IN_REMOVE)},
        parse_body('["{tag:d}"]', IN_REMOVE),
    )
    assert template.tags == {"a", "b", "c", "d"}
    missing = template.missing(Instance("i-1", tags={"a": "x", "c": ""}))
    assert missing == ("{tag:b}", "{private_ip}", "{tag:c}", "{tag:d}")
