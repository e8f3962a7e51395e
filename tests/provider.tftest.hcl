# All features, planned by the real provider without AWS: it checks more arguments than a mock does.

provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

run "everything_on_is_taken" {
  command = plan

  variables {
    vpc_config    = { subnet_ids = ["subnet-1", "subnet-2"], security_group_ids = ["sg-1"], ipv6_allowed_for_dual_stack = true }
    organization  = { members = { "222222222222" = {} } }
    route53       = { enabled = true, zone_ids = ["Z1"], zones = [{ id = "Z2", role_arn = "arn:aws:iam::333333333333:role/dns" }], record_names = ["{tag:Name}.example.internal"] }
    chef          = { enabled = true, server_url = "https://chef.example.internal", client_name = "c" }
    consul        = { enabled = true, url = "https://consul.example.internal" }
    secrets       = { chef_client_key = { path = "chef" }, consul_token = { path = "consul" } }
    inventory     = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e" }
    queue         = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e" }
    log_group     = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e" }
    function      = { environment_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e", tracing_mode = "Active", reserved_concurrent_executions = 5, role_path = "/service/" }
    package       = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, ca_bundle_file = "LICENSE" }
    alarms        = { enabled = true }
    dashboard     = { enabled = true }
    result_events = { enabled = true }
    audit         = { bucket = "audit" }
    tags          = { Team = "platform" }
  }

  assert {
    condition     = aws_lambda_function.this.reserved_concurrent_executions == 5 && length(aws_cloudwatch_metric_alarm.this) == 10 && length(aws_lambda_layer_version.bundle) == 1
    error_message = "Something is not planned."
  }
}

run "signed_code_and_a_role_of_ones_own_are_taken" {
  command = plan

  variables {
    consul   = { enabled = true, url = "https://consul.example.com" }
    function = { code_signing_config_arn = "arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-0123456789abcdef0", role_arn = "arn:aws:iam::123456789012:role/own" }
    package  = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
  }

  assert {
    condition     = aws_lambda_function.this.role == "arn:aws:iam::123456789012:role/own"
    error_message = "The function has another role."
  }
}

run "a_member_is_taken" {
  command = plan

  module {
    source = "./modules/member"
  }

  variables {
    event_bus_arn     = "arn:aws:events:eu-west-1:111111111111:event-bus/ec2-decommission-members"
    function_role_arn = "arn:aws:iam::111111111111:role/ec2-decommission-eu-west-1"
  }

  assert {
    condition     = length(aws_iam_role.reader) == 1
    error_message = "There is no reader."
  }
}
