# Rejected input of the step route53.

run "rejects_route53_without_zone_ids" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_route53_without_record_names" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"] }
  }

  expect_failures = [var.route53]
}

run "rejects_a_zone_name_for_a_zone_id" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["example.internal"], record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_a_zone_id_with_its_path" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["/hostedzone/Z1"], record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_a_zone_named_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1", "Z1"], record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_unknown_placeholder" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag_name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_placeholder_in_capitals" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{INSTANCE_ID}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_tag_placeholder_without_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_placeholder_of_the_public_address" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{public_ip}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_unclosed_brace" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_unopened_brace" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["tag:Name}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_doubled_braces" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{{instance_id}}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_record_name_without_its_zone" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{hostname}"] }
  }

  expect_failures = [var.route53]
}

run "rejects_record_name_that_begins_with_a_dot" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = [".{hostname}.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_record_name_with_an_empty_label" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{hostname}..example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_record_name_with_a_space" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{hostname} .example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_wildcard_within_a_record_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["web.*.example.internal"] }
  }

  expect_failures = [var.route53]
}

run "rejects_empty_record_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = [""] }
  }

  expect_failures = [var.route53]
}

run "rejects_no_requests_to_route53" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { max_requests_per_second = 0.4 }
  }

  expect_failures = [var.route53]
}

run "rejects_more_requests_to_route53_than_any_account_has" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { max_requests_per_second = 1001 }
  }

  expect_failures = [var.route53]
}

run "rejects_a_share_of_route53_that_is_too_small_to_work_with" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    queue   = { max_concurrency = 21 }
  }

  expect_failures = [var.route53]
}

run "accepts_the_smallest_share_of_route53" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    queue   = { max_concurrency = 20 }
  }
}
