# The artifact: what makes it be built again, and the ways to bring one's own.

# The real provider, with nobody to ask: a plan reaches no network, and checks more than a mock does.
provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

run "a_build_is_named_by_its_inputs_and_needs_no_zip_at_plan" {
  command = plan

  # Known when the package was built: see checks.tf.
  expect_failures = [check.deployed_code]

  assert {
    condition     = can(regex("^\\./\\.terraform/ec2-decommission/ec2-decommission-eu-west-1-[0-9a-f]{16}\\.zip$", terraform_data.package[0].input.zip))
    error_message = "The zip would be ${terraform_data.package[0].input.zip}."
  }
}

run "the_build_is_told_references_and_where_to_seal" {
  command = plan

  variables {
    chef        = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    secrets     = { chef_client_key = { path = "decommission/chef", field = "key", version = 3 } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    vault       = { address = "https://vault:8200", auth = { method = "jwt", role = "ci", jwt_env = "CI_JWT" } }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = jsonencode(local.build_spec.secrets) == jsonencode({ chef_client_key = { field = "key", mount = "secret", path = "decommission/chef", version = 3 } })
    error_message = jsonencode(local.build_spec.secrets)
  }

  assert {
    condition     = local.build_spec.kms.region == "eu-west-1" && local.build_spec.kms.encryption_context == { FunctionName = "ec2-decommission" } && local.build_spec.vault.auth.method == "jwt" && tolist(local.build_spec.features) == tolist(["chef"])
    error_message = jsonencode(local.build_spec)
  }
}

run "how_the_build_logs_in_is_no_reason_to_build_again" {
  command = plan

  variables {
    vault   = { auth = { method = "approle", role_id_file = "approle-id" }, ca_certificate_file = "ca.pem" }
    package = { build_role_arn = "arn:aws:iam::123456789012:role/build", python = "python3.13" }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = length(regexall("ca\\.pem|approle|role/build|python3\"", jsonencode(local.build_triggers))) == 0
    error_message = "It would be built again: ${jsonencode(local.build_triggers)}"
  }
}

run "what_the_zip_holds_is_a_reason_to_build_again" {
  command = plan

  variables {
    package = { rebuild = "after the rotation", ca_bundle_file = "LICENSE" }
    custom_steps = {
      mine = { source_dir = "lambda/src/ec2_decommission", requirements_file = "lambda/requirements/consul.txt", settings = { a = "b" } }
    }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = local.build_triggers.rebuild == "after the rotation" && local.build_triggers.ca_bundle == filesha256("LICENSE") && length(local.build_triggers.custom_steps.mine) == 64
    error_message = jsonencode(local.build_triggers)
  }

  # Settings reach the function by its environment.
  assert {
    condition     = jsonencode(output.effective_config.custom_steps) == jsonencode({ mine = { secrets = [], settings = { a = "b" } } })
    error_message = jsonencode(output.effective_config.custom_steps)
  }
}

run "a_custom_steps_secrets_are_sealed_for_it_alone" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    custom_steps = {
      mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine" } } }
      off  = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "off" } }, enabled = false }
    }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = join(",", keys(local.build_triggers.secrets)) == "custom_steps.mine.token" && jsonencode(local.build_spec.custom_steps.mine.secrets) == jsonencode({ token = { field = "value", mount = "secret", path = "mine", version = null } }) && local.build_spec.kms != null
    error_message = jsonencode(local.build_spec)
  }

  assert {
    condition     = jsonencode(output.effective_config.custom_steps) == jsonencode({ mine = { secrets = ["token"], settings = {} } }) && contains(keys(local.function_statements), "OpenSecrets")
    error_message = jsonencode(output.effective_config.custom_steps)
  }
}

run "what_python_leaves_behind_is_no_source" {
  command = plan

  expect_failures = [check.deployed_code]

  assert {
    condition     = contains(local.source_files, "src/ec2_decommission/__init__.py") && length([for file in local.source_files : file if length(regexall("__pycache__|\\.pyc$|egg-info|/\\.", file)) > 0]) == 0
    error_message = jsonencode(local.source_files)
  }
}

run "a_zip_is_taken_as_it_is" {
  command = plan

  variables {
    package = { type = "prebuilt", zip_file = "LICENSE" }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = aws_lambda_function.this.filename == "LICENSE" && aws_lambda_function.this.source_code_hash == filebase64sha256("LICENSE") && length(terraform_data.package) == 0
    error_message = "The zip is not what the function runs."
  }
}

run "a_zip_with_its_digest_need_not_be_there_at_plan" {
  command = plan

  variables {
    package = { type = "prebuilt", zip_file = "no-such-file.zip", code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = aws_lambda_function.this.source_code_hash == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    error_message = "The digest is not what tells a change."
  }
}

run "rejects_prebuilt_zip_that_is_not_there" {
  command = plan

  variables {
    package = { type = "prebuilt", zip_file = "no-such-file.zip" }
  }

  expect_failures = [aws_lambda_function.this]
}

run "an_s3_object_is_taken_by_its_version" {
  command = plan

  variables {
    package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "7" } }
  }

  assert {
    condition     = aws_lambda_function.this.s3_bucket == "artifacts" && aws_lambda_function.this.s3_object_version == "7" && aws_lambda_function.this.filename == null
    error_message = "The object is not what the function runs."
  }
}

run "secrets_without_a_key_have_one_made" {
  command = plan

  variables {
    secrets = { consul_token = { path = "decommission/consul" } }
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = length(aws_kms_key.secrets) == 1 && aws_kms_key.secrets[0].enable_key_rotation && aws_kms_alias.secrets[0].name == "alias/ec2-decommission"
    error_message = "There is no key to seal the secrets with."
  }
}

run "a_given_key_is_the_only_one" {
  command = plan

  variables {
    secrets        = { consul_token = { path = "decommission/consul" } }
    kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    create_kms_key = false
  }

  expect_failures = [check.deployed_code]

  assert {
    condition     = length(aws_kms_key.secrets) == 0 && output.kms_key_arn == "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    error_message = "A second key is made."
  }
}

run "rejects_a_key_of_another_region" {
  command = plan

  variables {
    secrets     = { consul_token = { path = "decommission/consul" } }
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/0f1e"
  }

  expect_failures = [aws_lambda_function.this]
}
