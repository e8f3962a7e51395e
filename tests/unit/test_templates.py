"""Name templates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2_decommission.errors import ConfigurationError
from ec2_decommission.instance import Instance
from ec2_decommission.templates import PLACEHOLDERS, Template

FULL = Instance(
    "i-0abc",
    account_id="123456789012",
    region="eu-west-1",
    private_ips=("10.0.0.5", "10.0.0.6"),
    private_dns_names=("ip-10-0-0-5.eu-west-1.compute.internal", "other.internal"),
    tags={"Name": "web-1", "a:b": "c", "empty": "", "braces": "{instance_id}"},
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{instance_id}", "i-0abc"),
        ("{tag:Name}", "web-1"),
        ("{tag:a:b}", "c"),
        ("{private_ip}", "10.0.0.5"),
        ("{private_ip_dashed}", "10-0-0-5"),
        ("{private_dns_name}", "ip-10-0-0-5.eu-west-1.compute.internal"),
        ("{hostname}", "ip-10-0-0-5"),
        ("{account_id}.{region}", "123456789012.eu-west-1"),
        ("*.{tag:Name}.x.", "*.web-1.x."),
        ("plain", "plain"),
        ("{tag:Name}{tag:Name}", "web-1web-1"),
        ("{tag:braces}", "{instance_id}"),
        ("{tag:name}", None),
        ("{tag:empty}", None),
        ("{tag:Name}-{tag:Role}", None),
    ],
)
def test_renders(text: str, name: str | None) -> None:
    assert Template(text).render(FULL) == name


@pytest.mark.parametrize(
    "text", ["{private_ip}", "{private_ip_dashed}", "{private_dns_name}", "{hostname}", "{region}"]
)
def test_a_value_that_is_not_known_yields_no_name(text: str) -> None:
    assert Template(text).render(Instance("i-1")) is None
    assert Template(text).missing(Instance("i-1")) == (text.strip("{}"),)


@pytest.mark.parametrize(
    "text", ["{name}", "{}", "{tag:}", "{tag}", "{Tag:Name}", "{ instance_id }", "{private_ip }"]
)
def test_an_unknown_placeholder_is_refused_and_the_known_are_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown placeholder") as error:
        Template(text)
    assert all(f"{{{placeholder}}}" in str(error.value) for placeholder in PLACEHOLDERS)


@pytest.mark.parametrize("text", ["{", "}", "{instance_id", "a}b", "{{instance_id}}", "{tag:{Name}}"])
def test_a_brace_without_its_partner_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Template(text)


def test_variables_are_those_that_distinguish_instances() -> None:
    assert Template("{tag:Name}.{region}.{account_id}.{tag:Name}").variables == ("tag:Name",)


def test_templates_compare_by_their_text() -> None:
    assert Template("{region}") == Template("{region}")
    assert len({Template("a"), Template("a"), Template("b")}) == 2
    assert Template("a") != "a"
    assert repr(Template("a")) == "Template('a')"


@settings(deadline=None)
@given(st.text(alphabet="{}tag:Nameinstance_id .*", max_size=25))
def test_any_text_is_a_template_or_an_error_of_the_configuration(text: str) -> None:
    try:
        template = Template(text)
    except ConfigurationError:
        return
    name = template.render(FULL)
    assert name is None or isinstance(name, str)
    assert (name is None) == bool(template.missing(FULL))
