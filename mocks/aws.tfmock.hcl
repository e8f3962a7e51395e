# Mock values for `terraform test` of a root module that calls this module, without an AWS account:
#
#   mock_provider "aws" {
#     source = "./.terraform/modules/<name of the module block>/mocks"
#   }
#
# The module reads partition, region and account from the queue's ARN. Values that Terraform makes up by itself are
# random strings, which are no ARNs.

mock_resource "aws_sqs_queue" {
  defaults = {
    id  = "https://sqs.eu-west-1.amazonaws.com/123456789012/ec2-decommission"
    arn = "arn:aws:sqs:eu-west-1:123456789012:ec2-decommission"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/ec2-decommission"
  }
}

mock_resource "aws_lambda_function" {
  defaults = {
    arn         = "arn:aws:lambda:eu-west-1:123456789012:function:ec2-decommission"
    code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
  }
}

mock_resource "aws_lambda_layer_version" {
  defaults = { arn = "arn:aws:lambda:eu-west-1:123456789012:layer:ec2-decommission-bundle:1" }
}

mock_resource "aws_lambda_event_source_mapping" {
  defaults = {
    arn  = "arn:aws:lambda:eu-west-1:123456789012:event-source-mapping:91eaeb7e-c976-4939-b78d-a3a2ce4b58a3"
    uuid = "91eaeb7e-c976-4939-b78d-a3a2ce4b58a3"
  }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::123456789012:role/ec2-decommission-eu-west-1" }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/ec2-decommission" }
}

mock_resource "aws_cloudwatch_event_rule" {
  defaults = { arn = "arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-instance-state" }
}

mock_resource "aws_cloudwatch_event_bus" {
  defaults = { arn = "arn:aws:events:eu-west-1:123456789012:event-bus/ec2-decommission-members" }
}

mock_resource "aws_cloudwatch_metric_alarm" {
  defaults = { arn = "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:ec2-decommission-dead-letters" }
}

mock_resource "aws_dynamodb_table" {
  defaults = { arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/ec2-decommission-inventory" }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn    = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    key_id = "11111111-2222-3333-4444-555555555555"
  }
}
