import ray

end_with_parent()
try:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")

    @ray.remote(num_cpus=1)
    class Echo:
        def echo(self, request):
            return request

    echo = Echo.remote()
    measure(echo.echo.remote, ray.get)
finally:
    ray.shutdown()
