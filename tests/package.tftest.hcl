# The package: the triggers of a rebuild, and the ways to supply a prebuilt one.

mock_provider "aws" {
  source = "./mocks"
}

# These tests build nothing (see `python`), so another file stands in for the zip.
override_resource {
  target = terraform_data.package
  values = { output = { zip = "LICENSE" } }
}

override_resource {
  target = terraform_data.bundle
  values = { output = { zip = "LICENSE" } }
}

override_resource {
  target = aws_lambda_function.this
  values = { arn = "arn:aws:lambda:eu-west-1:123456789012:function:ec2-decommission", code_sha256 = "z8d0m5b2O9McPEK1xHG/dWgUBT6EfBDz6wA0F7xSPTA=" } # of LICENSE
}

variables {
  consul  = { enabled = true, url = "https://consul.example.com" }
  package = { python = "true" }
}

run "a_build_is_told_references_settings_and_where_to_seal" {
  variables {
    chef         = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    secrets      = { chef_client_key = { path = "decommission/chef", field = "key", version = 3 } }
    kms_key_arn  = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    vault        = { address = "https://vault:8200", auth = { method = "jwt", role = "ci", jwt_env = "CI_JWT" } }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine" } } } }
    http_steps = {
      zabbix = {
        url     = "https://zabbix.example.com/api_jsonrpc.php"
        headers = { Authorization = "Bearer {secret:token}" }
        secrets = { token = { path = "zabbix" } }
        find    = { method = "POST", body = "{\"host\": \"{instance_id}\"}", items = "result", id = "hostid" }
        prove   = { field = "tag", equals = "{instance_id}" }
        remove  = { method = "POST", body = "{\"params\": [\"{id}\"]}", gone = [404] }
      }
    }
  }

  assert {
    condition = { for key, value in jsondecode(jsonencode(local.build_specs.package)) : key => value if key != "output" } == {
      name         = "ec2-decommission"
      runtime      = "python3.13"
      architecture = "arm64"
      features     = ["chef", "consul", "http"]
      secrets      = { chef_client_key = { mount = "secret", path = "decommission/chef", field = "key", version = 3 } }
      http_steps   = { zabbix = { secrets = { token = { mount = "secret", path = "zabbix", field = "value", version = null } } } }
      custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", requirements_file = null, secrets = { token = { mount = "secret", path = "mine", field = "value", version = null } } } }
      kms          = { key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e", region = "eu-west-1", role_arn = null, encryption_context = { FunctionName = "ec2-decommission" } }
      vault        = jsondecode(jsonencode(var.vault))
      settings     = jsondecode(jsonencode(local.settings))
    }
    error_message = jsonencode(local.build_specs.package)
  }

  assert {
    condition = jsondecode(jsonencode(local.settings)) == {
      organization = null
      http_steps = {
        zabbix = {
          url     = "https://zabbix.example.com/api_jsonrpc.php"
          headers = { Authorization = "Bearer {secret:token}" }
          secrets = ["token"]
          find    = { method = "POST", path = "", query = {}, headers = {}, body = "{\"host\": \"{instance_id}\"}", items = "result", id = "hostid", next = null, error = null }
          prove   = { field = "tag", equals = "{instance_id}" }
          keep    = []
          remove  = { method = "POST", path = "", query = {}, headers = {}, body = "{\"params\": [\"{id}\"]}", gone = [404], error = null }
          auth    = null

          request_timeout_seconds = 10
          max_concurrency         = 4
        }
      }
    }
    error_message = jsonencode(local.settings)
  }

  assert {
    condition     = keys(local.build_triggers.secrets) == ["chef_client_key", "custom_steps.mine.token", "http_steps.zabbix.token"] && local.build_triggers.settings == local.settings
    error_message = "A change of a reference or of the settings is no reason to build again."
  }

  assert {
    condition     = can(regex("^\\./\\.terraform/ec2-decommission/ec2-decommission-eu-west-1-[0-9a-f]{16}\\.zip$", terraform_data.package[0].input.zip)) && aws_lambda_function.this.source_code_hash == terraform_data.package[0].id && length(aws_lambda_layer_version.bundle) == 0
    error_message = "The zip would be ${terraform_data.package[0].input.zip}."
  }
}

run "how_the_build_logs_in_is_no_reason_to_build_again" {
  variables {
    vault   = { auth = { method = "approle", role_id_file = "approle-id" }, ca_certificate_file = "ca.pem" }
    package = { python = "true", build_role_arn = "arn:aws:iam::123456789012:role/build" }
  }

  assert {
    condition     = length(regexall("ca\\.pem|approle|role/build|\"true\"", jsonencode(local.build_triggers))) == 0
    error_message = "It would be built again: ${jsonencode(local.build_triggers)}"
  }
}

run "what_the_zip_holds_is_a_reason_to_build_again" {
  variables {
    package = { python = "true", rebuild = "after the rotation", ca_bundle_file = "LICENSE" }
    custom_steps = {
      mine = { source_dir = "lambda/src/ec2_decommission", requirements_file = "lambda/requirements/consul.txt", settings = { a = "b" } }
    }
  }

  assert {
    condition     = local.build_triggers.rebuild == "after the rotation" && local.build_triggers.ca_bundle == filesha256("LICENSE") && length(local.build_triggers.custom_steps.mine) == 64 && local.build_specs.package.ca_bundle_file == "LICENSE"
    error_message = jsonencode(local.build_triggers)
  }

  # Files that Python creates are not sources.
  assert {
    condition     = contains(local.source_files, "src/ec2_decommission/__init__.py") && length([for file in local.source_files : file if length(regexall("__pycache__|\\.pyc$|egg-info|/\\.", file)) > 0]) == 0
    error_message = jsonencode(local.source_files)
  }
}

run "a_zip_is_taken_as_it_is" {
  variables {
    package = { type = "prebuilt", zip_file = "LICENSE" }
  }

  assert {
    condition     = aws_lambda_function.this.filename == "LICENSE" && aws_lambda_function.this.source_code_hash == filebase64sha256("LICENSE") && length(terraform_data.package) + length(terraform_data.bundle) + length(aws_lambda_layer_version.bundle) == 0
    error_message = "The zip is not what the function runs."
  }
}

run "a_zip_with_its_digest_need_not_be_there_at_plan" {
  command = plan

  variables {
    package = { type = "prebuilt", zip_file = "no-such-file.zip", code_sha256 = "z8d0m5b2O9McPEK1xHG/dWgUBT6EfBDz6wA0F7xSPTA=" }
  }

  assert {
    condition     = aws_lambda_function.this.source_code_hash == "z8d0m5b2O9McPEK1xHG/dWgUBT6EfBDz6wA0F7xSPTA="
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

run "what_differs_between_deployments_travels_in_a_layer_beside_a_zip_from_elsewhere" {
  variables {
    package      = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "7" }, python = "true", ca_bundle_file = "LICENSE", rebuild = "2" }
    secrets      = { consul_token = { path = "decommission/consul" } }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "mine" } } } }
  }

  assert {
    condition     = aws_lambda_function.this.s3_bucket == "artifacts" && aws_lambda_function.this.s3_object_version == "7" && aws_lambda_function.this.filename == null
    error_message = "The object is not what the function runs."
  }

  assert {
    condition     = tolist(aws_lambda_function.this.layers) == tolist([aws_lambda_layer_version.bundle[0].arn]) && aws_lambda_layer_version.bundle[0].source_code_hash == terraform_data.bundle[0].id
    error_message = "The layer is not the function's, or does not change with the secrets."
  }

  assert {
    condition = { for key, value in jsondecode(jsonencode(local.build_specs.bundle)) : key => value if !contains(["output", "vault"], key) } == {
      kind           = "bundle"
      name           = "ec2-decommission"
      secrets        = { consul_token = { mount = "secret", path = "decommission/consul", field = "value", version = null } }
      http_steps     = {}
      custom_steps   = { mine = { secrets = { token = { mount = "secret", path = "mine", field = "value", version = null } } } }
      kms            = { key_arn = aws_kms_key.secrets[0].arn, region = "eu-west-1", role_arn = null, encryption_context = { FunctionName = "ec2-decommission" } }
      settings       = null
      ca_bundle_file = "LICENSE"
    }
    error_message = jsonencode(local.build_specs.bundle)
  }

  assert {
    condition     = !contains(keys(local.bundle_triggers), "runtime") && local.bundle_triggers.rebuild == "2"
    error_message = jsonencode(local.bundle_triggers)
  }
}

run "a_zip_that_was_built_for_this_deployment_needs_no_layer" {
  variables {
    package     = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "7" }, bundle_included = true }
    secrets     = { consul_token = { path = "decommission/consul" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  assert {
    condition     = length(terraform_data.bundle) == 0 && length(aws_lambda_layer_version.bundle) == 0 && try(length(aws_lambda_function.this.layers), 0) == 0
    error_message = "Something is built that is in the zip."
  }
}

run "signed_code_is_deployed_with_its_signing_configuration" {
  variables {
    package  = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "7" } }
    function = { code_signing_config_arn = "arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-0123456789abcdef0" }
  }

  assert {
    condition     = aws_lambda_function.this.code_signing_config_arn == "arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-0123456789abcdef0"
    error_message = "Any code may be deployed."
  }
}

run "secrets_without_a_key_have_one_made" {
  variables {
    secrets = { consul_token = { path = "decommission/consul" } }
  }

  assert {
    condition     = length(aws_kms_key.secrets) == 1 && aws_kms_key.secrets[0].enable_key_rotation && aws_kms_alias.secrets[0].name == "alias/ec2-decommission" && jsondecode(aws_kms_key.secrets[0].policy).Statement[0].Principal == { AWS = "arn:aws:iam::123456789012:root" }
    error_message = "There is no key to seal the secrets with."
  }
}

run "a_given_key_is_the_only_one" {
  variables {
    secrets        = { consul_token = { path = "decommission/consul" } }
    kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    create_kms_key = false
  }

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
