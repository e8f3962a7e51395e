# From top to bottom: is anything wrong, is work getting done, what fails and why.

locals {
  # Rows of widgets of equal width; a row of steps has at most four.
  dashboard_rows = concat(
    [{ height = 2, widgets = [local.title_widget] }],
    [for arns in [values(aws_cloudwatch_metric_alarm.this)[*].arn] : {
      height  = 3
      widgets = [{ type = "alarm", properties = { title = "Alarms", alarms = arns } }]
    } if local.alarms_on],
    [{
      height = 6
      widgets = [for widget in [
        {
          title = "Instances finished and failed"
          metrics = [
            [local.metric_namespace, "InstancesFinished", "FunctionName", var.name, { color = "#2ca02c" }],
            [local.metric_namespace, "InstancesFailed", "FunctionName", var.name, { color = "#d62728" }],
          ]
        },
        {
          title = "Seconds from the event to the end of the clean-up"
          stat  = "p50"
          metrics = [
            [local.metric_namespace, "EventAge", "FunctionName", var.name, { label = "p50" }],
            [local.metric_namespace, "EventAge", "FunctionName", var.name, { label = "p99", stat = "p99" }],
            [local.metric_namespace, "UnfinishedAge", "FunctionName", var.name, { label = "oldest that failed again", stat = "Maximum", color = "#d62728" }],
          ]
        },
        {
          title = "Queue"
          stat  = "Maximum"
          metrics = [
            ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.events.name, { label = "waiting" }],
            ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", aws_sqs_queue.events.name, { label = "in progress, or waiting for a retry" }],
            ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", aws_sqs_queue.events.name, { label = "age of the oldest, seconds", yAxis = "right" }],
          ]
        },
        {
          title = "Dead letters"
          stat  = "Maximum"
          metrics = [
            ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.dead_letters.name, { label = "dead letters", color = "#d62728" }],
          ]
        },
      ] : { type = "metric", properties = widget }]
    }],
    [for steps in chunklist(local.steps, 4) : {
      height = 6
      widgets = [for step in steps : {
        type = "metric"
        properties = {
          title   = "Step ${step}"
          stacked = true
          metrics = [
            [local.metric_namespace, "Done", "FunctionName", var.name, "Step", step, { color = "#2ca02c" }],
            [local.metric_namespace, "Clean", "FunctionName", var.name, "Step", step, { color = "#1f77b4" }],
            [local.metric_namespace, "Skipped", "FunctionName", var.name, "Step", step, { color = "#ff7f0e" }],
            [local.metric_namespace, "Failed", "FunctionName", var.name, "Step", step, { color = "#d62728" }],
          ]
        }
      }]
    }],
    [{
      height = 6
      widgets = [for widget in concat(
        [for metrics in [[for step in local.steps : [local.metric_namespace, "StepDuration", "FunctionName", var.name, "Step", step, { label = step }]]] : {
          title   = "Duration of a step in milliseconds (p99)"
          stat    = "p99"
          metrics = metrics
        } if length(local.steps) > 0],
        [
          {
            title = "Errors by kind"
            metrics = [
              [local.metric_namespace, "ConfigurationErrors", "FunctionName", var.name, { label = "configuration or rights" }],
              [local.metric_namespace, "PermanentErrors", "FunctionName", var.name, { label = "permanent" }],
              [local.metric_namespace, "MalformedMessages", "FunctionName", var.name, { label = "malformed messages" }],
              [local.metric_namespace, "ForeignEvents", "FunctionName", var.name, { label = "events of other places" }],
            ]
          },
          {
            title = "Function: errors, throttles, concurrency"
            metrics = [
              ["AWS/Lambda", "Errors", "FunctionName", var.name, { color = "#d62728" }],
              ["AWS/Lambda", "Throttles", "FunctionName", var.name, { color = "#ff7f0e" }],
              ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", var.name, { stat = "Maximum" }],
            ]
          },
          {
            title = "Function: duration in milliseconds"
            stat  = "p50"
            metrics = [
              ["AWS/Lambda", "Duration", "FunctionName", var.name, { label = "p50" }],
              ["AWS/Lambda", "Duration", "FunctionName", var.name, { label = "longest", stat = "Maximum" }],
            ]
          },
        ],
      ) : { type = "metric", properties = widget }]
    }],
    [for widgets in [[
      {
        title = "Sweep: terminated, adopted"
        stat  = "Maximum"
        metrics = [
          [local.metric_namespace, "SweepGone", "FunctionName", var.name, { label = "terminated" }],
          [local.metric_namespace, "SweepAdopted", "FunctionName", var.name, { label = "adopted" }],
        ]
      },
      {
        title = "Sweep: braked, failed"
        stat  = "Maximum"
        metrics = [
          [local.metric_namespace, "SweepBraked", "FunctionName", var.name, { label = "braked", color = "#d62728" }],
          [local.metric_namespace, "SweepFailed", "FunctionName", var.name, { label = "failed", color = "#ff7f0e" }],
        ]
      },
    ]] : { height = 6, widgets = [for widget in widgets : { type = "metric", properties = widget }] } if local.sweep_on],
    [{
      height = 8
      widgets = [{
        type = "log"
        properties = {
          title = "Last failures"
          view  = "table"
          query = "SOURCE '${local.log_group_name}' | ${local.failures_query}"
        }
      }]
    }],
  )

  # The keys of the log lines that handler.py writes.
  failures_query = "filter level in [\"ERROR\", \"CRITICAL\"] | fields @timestamp, coalesce(instance_id, report.state, \"-\") as instance, error_kinds.0 as kind, message | sort @timestamp desc | limit 20"

  title_widget = {
    type = "text"
    properties = {
      background = "transparent"
      markdown   = "# ${var.name}${var.paused ? " (paused: events wait)" : var.dry_run ? " (dry run: nothing is removed)" : ""}\nRemoves what terminated EC2 instances leave behind. What an alarm means and what to do: `${local.runbook}`. Steps: ${length(local.steps) > 0 ? join(", ", local.steps) : "none"}."
    }
  }

  widget_defaults = {
    alarm  = {}
    log    = { region = local.region }
    metric = { region = local.region, view = "timeSeries", stat = "Sum", period = 300, yAxis = { left = { min = 0 } } }
    text   = {}
  }

  # CloudWatch's grid has 24 columns.
  dashboard_widgets = flatten([
    for r, row in local.dashboard_rows : [
      for w, widget in row.widgets : {
        type       = widget.type
        x          = w * floor(24 / length(row.widgets))
        y          = sum(concat([0], [for above in slice(local.dashboard_rows, 0, r) : above.height]))
        width      = floor(24 / length(row.widgets))
        height     = row.height
        properties = merge(local.widget_defaults[widget.type], widget.properties)
      }
    ]
  ])
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.dashboard.enabled ? 1 : 0

  # Dashboards are global. The region in the name keeps calls of the same name in two regions apart.
  dashboard_name = "${var.name}-${local.region}"
  dashboard_body = jsonencode({ widgets = local.dashboard_widgets })
}
