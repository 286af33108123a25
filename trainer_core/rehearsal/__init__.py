"""What a stand-by does before it has a job: it imports a step's libraries and uses them once, in memory, on the CPU."""
