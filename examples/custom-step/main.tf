provider "aws" {
  region = var.region
}

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  custom_steps = {
    # The name of the step in every report.
    cloudwatch_alarms = {
      source_dir = "${path.module}/cloudwatch_alarms"
      settings   = { alarm_name_prefix = var.alarm_name_prefix }

      iam_statements = [
        {
          # CloudWatch has no narrower permission for reading alarms.
          actions   = ["cloudwatch:DescribeAlarms"]
          resources = ["arn:aws:cloudwatch:${var.region}:*:alarm:*"]
        },
        {
          actions   = ["cloudwatch:DeleteAlarms"]
          resources = ["arn:aws:cloudwatch:${var.region}:*:alarm:${var.alarm_name_prefix}*"]
        },
      ]
    }
  }

  function = var.function
}
