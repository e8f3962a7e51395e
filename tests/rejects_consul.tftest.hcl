# Rejected input of the step consul.

run "rejects_consul_without_url" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { enabled = true }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_url_without_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { url = "consul:8500" }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_url_of_another_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { url = "tcp://consul:8500" }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_url_with_a_space" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { url = "http://con sul:8500" }
  }

  expect_failures = [var.consul]
}

run "rejects_datacenter_that_is_no_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { datacenters = ["dc 1"] }
  }

  expect_failures = [var.consul]
}

run "rejects_datacenter_named_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { datacenters = ["dc1", "dc1"] }
  }

  expect_failures = [var.consul]
}

run "rejects_unknown_placeholder_in_consul_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { node_name = "{name}-{instance_id}" }
  }

  expect_failures = [var.consul]
}

run "rejects_unclosed_brace_in_consul_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { node_name = "{instance_id}-{hostname" }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_node_name_that_all_instances_share" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { node_name = "web" }
  }

  expect_failures = [var.consul]
}

run "rejects_empty_consul_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { node_name = "" }
  }

  expect_failures = [var.consul]
}

run "rejects_lock_prefix_with_leading_slash" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { lock_prefixes = ["/locks/"] }
  }

  expect_failures = [var.consul]
}

run "rejects_empty_lock_prefix" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { lock_prefixes = [""] }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_request_timeout_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { request_timeout_seconds = 0 }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_request_timeout_above_a_minute" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { request_timeout_seconds = 61 }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_url_with_port_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { enabled = true, url = "https://consul.example.internal:0" }
  }

  expect_failures = [var.consul]
}

run "rejects_consul_url_with_a_port_above_65535" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    consul = { enabled = true, url = "https://consul.example.internal:65536" }
  }

  expect_failures = [var.consul]
}
