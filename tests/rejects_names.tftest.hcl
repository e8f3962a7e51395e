# Rejected names, networks, filters, packages, custom steps and tags.

run "rejects_name_with_a_space" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = "my stack"
  }

  expect_failures = [var.name]
}

run "rejects_name_that_begins_with_a_digit" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = "1st"
  }

  expect_failures = [var.name]
}

run "rejects_empty_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = ""
  }

  expect_failures = [var.name]
}

run "rejects_name_of_49_characters" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  }

  expect_failures = [var.name]
}

run "rejects_name_that_aws_reserves" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = "aws-cleanup"
  }

  expect_failures = [var.name]
}

run "rejects_empty_subnet_list" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = [], security_group_ids = ["sg-1"] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_empty_security_group_list" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = [] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_subnet_by_its_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = ["private-a"], security_group_ids = ["sg-1"] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_security_group_by_its_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = ["default"] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_included_tag_without_values" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_filter = { include_tags = { Env = [] } }
  }

  expect_failures = [var.instance_filter]
}

run "rejects_excluded_tag_without_values" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_filter = { exclude_tags = { Env = [] } }
  }

  expect_failures = [var.instance_filter]
}

run "rejects_unknown_package_type" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "zip" }
  }

  expect_failures = [var.package]
}

run "rejects_prebuilt_without_zip" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "prebuilt" }
  }

  expect_failures = [var.package]
}

run "rejects_zip_without_its_type" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { zip_file = "package.zip" }
  }

  expect_failures = [var.package]
}

run "rejects_s3_without_object" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "s3" }
  }

  expect_failures = [var.package]
}

run "rejects_object_without_its_type" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { s3 = { bucket = "b", key = "k", object_version = "1" } }
  }

  expect_failures = [var.package]
}

run "rejects_s3_object_that_could_change_unnoticed" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "s3", s3 = { bucket = "b", key = "k" } }
  }

  expect_failures = [var.package]
}

run "rejects_digest_in_hexadecimal" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "prebuilt", zip_file = "package.zip", code_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  }

  expect_failures = [var.package]
}

run "rejects_digest_of_what_is_yet_to_be_built" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" }
  }

  expect_failures = [var.package]
}

run "rejects_prebuilt_secrets_without_their_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "prebuilt", zip_file = "package.zip" }
    secrets = { consul_token = { path = "consul" } }
  }

  expect_failures = [var.package]
}

run "rejects_build_role_that_is_no_role" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { build_role_arn = "arn:aws:iam::123456789012:user/build" }
  }

  expect_failures = [var.package]
}

run "rejects_ca_bundle_that_is_not_there" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { ca_bundle_file = "no-such-file.pem" }
  }

  expect_failures = [var.package]
}

run "rejects_empty_python" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { python = "" }
  }

  expect_failures = [var.package]
}

run "rejects_custom_step_named_with_a_hyphen" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { my-step = { source_dir = "lambda/src/ec2_decommission" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_step_named_as_one_of_the_modules" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { route53 = { source_dir = "lambda/src/ec2_decommission" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_step_without_code" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "no-such-directory" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_step_with_requirements_that_are_not_there" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", requirements_file = "no-such-file.txt" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_statement_without_resources" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["sns:Publish"], resources = [] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_statement_for_a_whole_service" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["sns:*"], resources = ["*"] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_statement_for_everything" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["*"], resources = ["*"] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secret_with_a_capital" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { Token = { path = "mine" } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secret_with_a_leading_slash" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "/mine" } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secret_with_a_dotted_mount" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { mount = "..", path = "mine" } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secret_of_version_0" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine", version = 0 } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secret_without_a_field" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine", field = "" } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_statement_of_wildcards_only" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["sns:**"], resources = ["arn:aws:sns:*:*:t"] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_statement_with_two_wildcards" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["sns:Get*"], resources = ["*"] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_condition_without_values" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", iam_statements = [{ actions = ["sns:Publish"], resources = ["*"], conditions = [{ test = "StringEquals", variable = "aws:ResourceTag/Team", values = [] }] }] } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secrets_version_where_the_engine_keeps_none" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vault        = { kv_version = 1 }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine", version = 2 } } } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_source_that_is_no_python_package" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { mine = { source_dir = "lambda/src" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_custom_secrets_in_a_package_sealed_with_an_unknown_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package      = { type = "prebuilt", zip_file = "x.zip" }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine" } } } }
  }

  expect_failures = [var.package]
}

run "rejects_a_secret_that_only_a_custom_step_could_use" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    secrets      = { ldap_password = { path = "ldap" } }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission" } }
  }

  expect_failures = [var.secrets]
}

run "rejects_boundary_that_is_no_policy" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}

run "rejects_tag_key_that_aws_reserves" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { "aws:x" = "y" }
  }

  expect_failures = [var.tags]
}

run "rejects_tag_value_above_256_characters" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { x = join("", [for n in range(257) : "a"]) }
  }

  expect_failures = [var.tags]
}

run "rejects_null_among_the_values_of_a_tag" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_filter = { include_tags = { Role = ["web", null] } }
  }

  expect_failures = [var.instance_filter]
}

run "rejects_null_among_subnets" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = [null], security_group_ids = ["sg-1"] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_null_among_security_groups" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = [null] }
  }

  expect_failures = [var.vpc_config]
}

run "rejects_authorities_for_what_is_not_built" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "s3", s3 = { bucket = "b", key = "k", object_version = "1" }, ca_bundle_file = "LICENSE" }
  }

  expect_failures = [var.package]
}

run "rejects_rebuild_of_what_is_not_built" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    package = { type = "prebuilt", zip_file = "LICENSE", rebuild = "now" }
  }

  expect_failures = [var.package]
}

run "rejects_custom_steps_that_differ_by_underscores" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    custom_steps = { dns_1 = { source_dir = "lambda/src/ec2_decommission" }, dns1 = { source_dir = "lambda/src/ec2_decommission" } }
  }

  expect_failures = [var.custom_steps]
}

run "rejects_51_tags" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { for n in range(51) : "tag-${n}" => "x" }
  }

  expect_failures = [var.tags]
}
