"""Runs in Windows: prints the access list of a named pipe, as its clients see it."""

import ctypes
import sys
from ctypes import c_uint32, c_void_p, c_wchar_p

READ_WRITE_AND_ITS_ACCESS_LIST = 0xC0020000
OPEN_EXISTING, KERNEL_OBJECT, ACCESS_LIST, REVISION = 3, 6, 4, 1

kernel, advapi = ctypes.WinDLL("kernel32"), ctypes.WinDLL("advapi32")
kernel.CreateFileW.restype = c_void_p
pipe = c_void_p(kernel.CreateFileW(sys.argv[1], READ_WRITE_AND_ITS_ACCESS_LIST, 0, None, OPEN_EXISTING, 0, None))
descriptor, text = c_void_p(), c_wchar_p()
failed = advapi.GetSecurityInfo(pipe, KERNEL_OBJECT, ACCESS_LIST, None, None, None, None, ctypes.byref(descriptor))
assert not failed, failed
advapi.ConvertSecurityDescriptorToStringSecurityDescriptorW(
    descriptor, c_uint32(REVISION), c_uint32(ACCESS_LIST), ctypes.byref(text), None
)
print(text.value)
