"""A small Ray program: some tasks, and the sum of what they return."""

import ray


@ray.remote(num_cpus=0.1)
def square(n):
    return n * n


ray.init()
print("the sum is", sum(ray.get([square.remote(n) for n in range(10)])))
