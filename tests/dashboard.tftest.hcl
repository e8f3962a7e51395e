# The dashboard: a valid document with exactly the enabled features.

# tests/unit/test_dashboard.py compares its names with the function's metrics.
mock_provider "aws" {
  source = "./mocks"
}

variables {
  package   = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
  dashboard = { enabled = true }
}

run "everything_on_is_on_the_wall" {
  command = apply

  variables {
    alarms  = { enabled = true }
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    consul  = { enabled = true, url = "https://consul.example.com" }
    http_steps = {
      zabbix = { url = "https://a.example.com", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
    }
    package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
    custom_steps = {
      third  = { source_dir = "lambda/src/ec2_decommission" }
      fourth = { source_dir = "lambda/src/ec2_decommission" }
      fifth  = { source_dir = "lambda/src/ec2_decommission" }
      off    = { source_dir = "lambda/src/ec2_decommission", enabled = false }
    }
  }

  assert {
    condition     = output.dashboard_name == "ec2-decommission-eu-west-1" && aws_cloudwatch_dashboard.this[0].dashboard_name == "ec2-decommission-eu-west-1"
    error_message = "The name is not the account's only one of its kind."
  }

  assert {
    condition = [for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : widget.properties.title if startswith(try(widget.properties.title, ""), "Step ")] == [
      "Step route53", "Step consul", "Step zabbix", "Step fifth", "Step fourth", "Step third",
    ]
    error_message = "Other steps are shown than those that are on."
  }

  # Within the grid of 24 columns, without overlaps.
  assert {
    condition = alltrue(flatten([
      for i, one in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : [
        one.width >= 6, one.x + one.width <= 24,
        [for j, other in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets :
          i == j || one.x + one.width <= other.x || other.x + other.width <= one.x || one.y + one.height <= other.y || other.y + other.height <= one.y
        ],
      ]
    ]))
    error_message = "A widget lies over another, or outside."
  }

  assert {
    condition     = alltrue([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : widget.properties.region == "eu-west-1" if contains(["metric", "log"], widget.type)])
    error_message = "A widget looks into another region."
  }

  # Namespace, metric, pairs of dimensions, options: CloudWatch rejects any other form.
  assert {
    condition = alltrue(flatten([
      for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : [
        for metric in widget.properties.metrics : [
          length(metric) == 5 || length(metric) == 7 && metric[4] == "Step",
          contains(["EC2Decommission", "AWS/Lambda"], metric[0]) ? metric[2] == "FunctionName" && metric[3] == "ec2-decommission" : metric[0] == "AWS/SQS" && metric[2] == "QueueName",
          can(keys(metric[length(metric) - 1])),
        ]
      ] if widget.type == "metric"
    ]))
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }

  assert {
    condition     = length(one([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : widget.properties.alarms if widget.type == "alarm"])) == 9
    error_message = "An alarm is not on the wall."
  }

  assert {
    condition     = one([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : startswith(widget.properties.query, "SOURCE '/aws/lambda/ec2-decommission' | ") if widget.type == "log"])
    error_message = "The failures are sought in another log."
  }
}

run "what_is_off_is_not_on_the_wall" {
  command = apply

  variables {
    inventory = { enabled = false }
  }

  expect_failures = [check.something_is_enabled]

  assert {
    condition     = length(regexall("Sweep|Step |StepDuration|\"alarm\"", aws_cloudwatch_dashboard.this[0].dashboard_body)) == 0
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }
}

run "a_dry_run_says_so_on_the_wall" {
  command = apply

  variables {
    dry_run = true
    consul  = { enabled = true, url = "https://consul.example.com" }
  }

  assert {
    condition     = strcontains(aws_cloudwatch_dashboard.this[0].dashboard_body, "(dry run: nothing is removed)")
    error_message = aws_cloudwatch_dashboard.this[0].dashboard_body
  }
}
