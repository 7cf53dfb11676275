from zerogen.support.process import share_cores

share_cores()  # before any test loads torch
