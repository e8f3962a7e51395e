# A test that needs no AWS account: the module brings mock values. In a root module of your own, the source is
# "./.terraform/modules/ec2_decommission/mocks", after the name of the module block.
#
# Plan only: an apply would build the package. With package.type "prebuilt" or "s3", an apply works too.
mock_provider "aws" {
  source = "../../mocks"
}

variables {
  zone_ids = ["Z0123456789ABCDEFGHIJ"]
}

run "the_function_is_planned_under_its_name" {
  command = plan

  variables {
    name = "cleanup"
  }

  assert {
    condition     = output.function_name == "cleanup" && output.inventory_table_name == "cleanup-inventory"
    error_message = "The names do not start with the name of the call."
  }
}
